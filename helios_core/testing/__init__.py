"""
Contract suites for plugin authors: subclass one, give what it asks for, run pytest.

The suites are written for `asyncio_mode = "auto"` of pytest-asyncio. They come with the extra
`helios-fhir[testing]`.
"""

import pytest

# Failed assertions of a shipped suite show their values only if rewriting is asked for by name
# before the module is imported; a name stands for all modules below it.
pytest.register_assert_rewrite(
    "helios_core.testing.data_provider",
    "helios_core.testing.extensions",
    "helios_core.testing.job_store",
    "helios_core.testing.output_store",
    "helios_core.testing.suites",
)

from helios_core.testing.data_provider import (  # noqa: E402 - after the registration
    DataProviderSuite,
    Holdings,
    Sample,
)
from helios_core.testing.extensions import (  # noqa: E402 - same
    CommandSuite,
    HealthCheckSuite,
    ObserverSuite,
    RouteSuite,
    TransformSuite,
)
from helios_core.testing.job_store import JobStoreSuite  # noqa: E402 - same
from helios_core.testing.output_store import OutputStoreSuite  # noqa: E402 - same
from helios_core.testing.suites import ContractSuite  # noqa: E402 - same

__all__ = [
    "CommandSuite",
    "ContractSuite",
    "DataProviderSuite",
    "HealthCheckSuite",
    "Holdings",
    "JobStoreSuite",
    "ObserverSuite",
    "OutputStoreSuite",
    "RouteSuite",
    "Sample",
    "TransformSuite",
]
