"""Find plugins, and open the ones the configuration selects."""

from collections.abc import Callable

import msgspec

from helios_core.data_providers import DataProvider
from helios_core.job_stores import JobStore
from helios_core.jobs import Job
from helios_core.output_stores import OutputStore


class Backends(msgspec.Struct, frozen=True, kw_only=True):
    """The opened backends of one process."""

    provider: DataProvider
    jobs: JobStore
    outputs: OutputStore
    announce: Callable[[Job], None]
    """Tells the observers that a job changed; it never raises."""
