"""
Contract suites for plugin authors: subclass one, give what it asks for, run pytest.

The suites are written for `asyncio_mode = "auto"` of pytest-asyncio. They come with the extra
`helios-core[testing]`.
"""

import pytest

# Failed assertions of a shipped suite show their values only if rewriting is asked for by name
# before the module is imported.
pytest.register_assert_rewrite(
    "helios_core.testing.data_provider",
    "helios_core.testing.job_store.contract",
    "helios_core.testing.job_store.endings",
    "helios_core.testing.job_store.leases",
    "helios_core.testing.job_store.machine",
    "helios_core.testing.job_store",
    "helios_core.testing.output_store",
    "helios_core.testing.data_provider.changes",
    "helios_core.testing.data_provider.contract",
    "helios_core.testing.data_provider.machine",
    "helios_core.testing.data_provider.prefilters",
    "helios_core.testing.data_provider.reads",
    "helios_core.testing.data_provider.searches",
    "helios_core.testing.data_provider.tombstones",
    "helios_core.testing.data_provider.writes",
    "helios_core.testing.suites",
)

from helios_core.testing.data_provider import DataProviderSuite  # noqa: E402 - after the registration
from helios_core.testing.job_store import JobStoreSuite  # noqa: E402 - same
from helios_core.testing.output_store import OutputStoreSuite  # noqa: E402 - same
from helios_core.testing.suites import ContractSuite  # noqa: E402 - same

__all__ = ["ContractSuite", "DataProviderSuite", "JobStoreSuite", "OutputStoreSuite"]
