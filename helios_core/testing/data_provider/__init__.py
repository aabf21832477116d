"""The contract suite of data providers: clauses P1 to P9 of `DataProvider`, and its powers."""

from helios_core import SupportsTombstones, SupportsWrites
from helios_core.testing.data_provider.changes import ChangeClauses
from helios_core.testing.data_provider.damage import DamageClauses
from helios_core.testing.data_provider.histories import HistoryClauses
from helios_core.testing.data_provider.holdings import Holdings, Sample
from helios_core.testing.data_provider.lookups import LookupClauses
from helios_core.testing.data_provider.machine import DataProviderMachine
from helios_core.testing.data_provider.prefilters import PrefilterClauses
from helios_core.testing.data_provider.reads import ReadClauses
from helios_core.testing.data_provider.searches import SearchClauses
from helios_core.testing.data_provider.tombstones import TombstoneClauses
from helios_core.testing.data_provider.views import ViewClauses
from helios_core.testing.data_provider.writes import WriteClauses
from helios_core.testing.machines import drive

__all__ = ["DataProviderSuite", "Holdings", "Sample"]


class DataProviderSuite(
    ReadClauses,
    ViewClauses,
    DamageClauses,
    LookupClauses,
    ChangeClauses,
    WriteClauses,
    HistoryClauses,
    SearchClauses,
    TombstoneClauses,
    PrefilterClauses,
):
    """
    Tests that every data provider passes: the clauses, and the powers that it claims.

    A subclass implements what `DataProviderContract` lists, names its `powers`, states whether it
    is `persistent`, and declares its `holdings` if it cannot store every resource.
    """

    def test_any_history_agrees_with_the_model(self) -> None:
        """P1, P2, P3, P7 and the powers to write and to remember deletions, in random mixtures."""
        self.needs(SupportsWrites)
        self.needs(SupportsTombstones)
        drive(DataProviderMachine, self)
