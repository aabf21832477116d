"""The contract suite of search indexes: clauses I1 to I9 of `SearchIndex`."""

from helios_core.testing.search_index.entries import EntryClauses
from helios_core.testing.search_index.finding import FindingClauses
from helios_core.testing.search_index.pages import PageClauses
from helios_core.testing.search_index.states import StateClauses

__all__ = ["SearchIndexSuite"]


class SearchIndexSuite(EntryClauses, FindingClauses, PageClauses, StateClauses):
    """
    Tests that every search index passes.

    A subclass implements the fixture `index`, which yields an opened index without entries, and
    what `SearchIndexContract` lists.
    """
