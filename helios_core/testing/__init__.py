"""
For the tests of plugins: contract suites, and the helpers of which these are made.

Subclass a suite, implement what it lists, run pytest. The suites are written for
`asyncio_mode = "auto"` of pytest-asyncio. They come with the extra `helios-fhir[testing]`.
"""

import pytest

# Failed assertions of a shipped suite show their values only if its module is registered for
# rewriting before it is imported; a package stands for all of its modules.
pytest.register_assert_rewrite(
    "helios_core.testing.data_provider",
    "helios_core.testing.extensions",
    "helios_core.testing.job_store",
    "helios_core.testing.output_store",
    "helios_core.testing.search_index",
    "helios_core.testing.suites",
)

from helios_core.testing import corpus  # noqa: E402 - after the registration
from helios_core.testing.data_provider import (  # noqa: E402 - same
    DataProviderSuite,
    Holdings,
    Sample,
)
from helios_core.testing.data_provider.contract import (  # noqa: E402 - same
    delete,
    names,
    view_everything,
    write,
)
from helios_core.testing.data_provider.prefilters import (  # noqa: E402 - same
    SEARCHES,
    compile_searches,
    measurements,
    sift_candidates,
)
from helios_core.testing.extensions import (  # noqa: E402 - same
    CommandSuite,
    FileAuthorizerSuite,
    HealthCheckSuite,
    ObserverSuite,
    RouteSuite,
    TokenVerifierSuite,
    TransformSuite,
)
from helios_core.testing.job_store import JobStoreSuite  # noqa: E402 - same
from helios_core.testing.output_store import (  # noqa: E402 - same
    MIB,
    PART,
    GatedChunks,
    OutputStoreSuite,
    list_jobs,
    read_part,
    same_content,
    store_part,
    yield_chunks,
)
from helios_core.testing.search_index import SearchIndexSuite  # noqa: E402 - same
from helios_core.testing.snapshots import (  # noqa: E402 - same
    Snapshot,
    read_batches,
    take_snapshot,
)
from helios_core.testing.suites import ContractSuite  # noqa: E402 - same

__all__ = [
    "MIB",
    "PART",
    "SEARCHES",
    "CommandSuite",
    "ContractSuite",
    "DataProviderSuite",
    "FileAuthorizerSuite",
    "GatedChunks",
    "HealthCheckSuite",
    "Holdings",
    "JobStoreSuite",
    "ObserverSuite",
    "OutputStoreSuite",
    "RouteSuite",
    "Sample",
    "SearchIndexSuite",
    "Snapshot",
    "TokenVerifierSuite",
    "TransformSuite",
    "compile_searches",
    "corpus",
    "delete",
    "list_jobs",
    "measurements",
    "names",
    "read_batches",
    "read_part",
    "same_content",
    "sift_candidates",
    "store_part",
    "take_snapshot",
    "view_everything",
    "write",
    "yield_chunks",
]
