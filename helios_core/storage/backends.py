"""TODO."""

from collections.abc import Callable

import msgspec

from helios_core.model.jobs import Job
from helios_core.storage.data_provider import DataProvider
from helios_core.storage.hooks import Reach
from helios_core.storage.job_store import JobStore
from helios_core.storage.output_store import OutputStore


class Backends(msgspec.Struct, frozen=True, kw_only=True):
    """The opened backends of one process."""

    data_provider: DataProvider
    job_store: JobStore
    output_store: OutputStore
    announce: Callable[[Job], None]
    """Tells the observers that a job changed; it never raises."""
    reach: Reach = Reach.PROCESS
    """How far apart the processes may be that use all three."""
