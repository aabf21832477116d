"""The contract of a data provider as tests."""

from helios_core.testing.provider_changes import ChangeClauses
from helios_core.testing.provider_reads import ReadClauses
from helios_core.testing.provider_searches import SearchClauses
from helios_core.testing.provider_tombstones import TombstoneClauses
from helios_core.testing.provider_writes import WriteClauses


class DataProviderSuite(ReadClauses, ChangeClauses, WriteClauses, SearchClauses, TombstoneClauses):
    """
    Tests that every data provider passes: the clauses, and each power it claims.

    A subclass gives what `DataProviderContract` asks for, names its `powers` and states whether
    it is `persistent`.
    """
