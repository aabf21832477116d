"""
Contract suites for plugin authors: subclass one, give what it asks for, run pytest.

The suites are written for `asyncio_mode = "auto"` of pytest-asyncio. They come with the extra
`helios-core[testing]`.
"""

import pytest

# Failed assertions of a shipped suite show their values only if rewriting is asked for by name
# before the module is imported.
pytest.register_assert_rewrite(
    "helios_core.testing.data_providers",
    "helios_core.testing.job_store_contract",
    "helios_core.testing.job_store_endings",
    "helios_core.testing.job_store_leases",
    "helios_core.testing.job_store_machine",
    "helios_core.testing.job_stores",
    "helios_core.testing.output_stores",
    "helios_core.testing.provider_changes",
    "helios_core.testing.provider_contract",
    "helios_core.testing.provider_machine",
    "helios_core.testing.provider_prefilters",
    "helios_core.testing.provider_reads",
    "helios_core.testing.provider_searches",
    "helios_core.testing.provider_tombstones",
    "helios_core.testing.provider_writes",
    "helios_core.testing.suites",
)

from helios_core.testing.data_providers import (  # noqa: E402 - after the registration
    DataProviderSuite,
)
from helios_core.testing.job_stores import JobStoreSuite  # noqa: E402 - same
from helios_core.testing.output_stores import OutputStoreSuite  # noqa: E402 - same
from helios_core.testing.suites import ContractSuite  # noqa: E402 - same

__all__ = ["ContractSuite", "DataProviderSuite", "JobStoreSuite", "OutputStoreSuite"]
