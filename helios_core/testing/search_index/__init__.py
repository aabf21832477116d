"""The contract of a search index as tests: clauses I1 to I9 of `SearchIndex`."""

from helios_core.testing.search_index.entries import EntryClauses
from helios_core.testing.search_index.finding import FindingClauses
from helios_core.testing.search_index.pages import PageClauses
from helios_core.testing.search_index.states import StateClauses

__all__ = ["SearchIndexSuite"]


class SearchIndexSuite(EntryClauses, FindingClauses, PageClauses, StateClauses):
    """
    Proves that a search index keeps its contract.

    A subclass implements the fixture `index`, an opened index in which nothing is, and what
    `SearchIndexContract` lists.
    """
