"""
The hooks of a Helios plugin.

A plugin is a module named by an entry point in group `helios`; the entry-point name is the
plugin's name everywhere: in settings (`HFS_<NAME>_…`), on the command line and in logs. Hooks
only describe: each gives a small descriptor, the host opens what the configuration selects and
calls the opened objects directly.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec
import pluggy

from helios_core.model.jobs import Job
from helios_core.storage.data_provider import DataProvider
from helios_core.storage.job_store import JobStore
from helios_core.storage.output_store import OutputStore

API_LEVEL = 1
"""The level of the plugin contract; a plugin states the level it was written for."""

hookspec = pluggy.HookspecMarker("helios")
hookimpl = pluggy.HookimplMarker("helios")

T = TypeVar("T")


class Reach(StrEnum):
    """How far apart the processes may be that share what a backend keeps; from near to far."""

    PROCESS = "one process"
    MACHINE = "one machine"
    MACHINES = "many machines"

    @classmethod
    def common(cls, *reaches: "Reach") -> "Reach":
        """Give the nearest of several, which is as far as they reach together."""
        return min(reaches, key=list(cls).index)


class Backend(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """What a plugin says of one backend it offers."""

    api_level: int
    """The `API_LEVEL` the plugin was written for."""
    implementation: type[T]
    """The class `open` gives; its powers are read from the protocols it satisfies."""
    settings: type[msgspec.Struct]
    """
    The plugin's settings, one field each.

    Field `x` of plugin `p` is read from `HFS_P_X`, unless the field's `msgspec.Meta` carries
    `extra={"name": "HFS_…"}`, another name for it, or `extra={"setting": "HFS_…"}`, a setting of
    the server that it shares. `title` in the Meta is its unit, `description` its meaning.
    """
    open: Callable[[Any], AbstractAsyncContextManager[T]]
    """Takes an instance of `settings`, gives the opened backend; leaving the context closes it."""
    reach: Reach = Reach.MACHINE
    """How far processes of one configuration may be apart; HFS_CLUSTER needs many machines."""
    migrate: Callable[[Any], Awaitable[str]] | None = None
    """Brings the backend's schema up to date and says in one line what it did."""


@hookspec(firstresult=True)
def helios_data_provider() -> Backend[DataProvider] | None:
    """Offer a data provider: where resources live."""


@hookspec(firstresult=True)
def helios_job_store() -> Backend[JobStore] | None:
    """Offer a job store: where job state lives."""


@hookspec(firstresult=True)
def helios_output_store() -> Backend[OutputStore] | None:
    """Offer an output store: where output bytes go."""


@hookspec
def helios_job_changed(job: Job) -> None:
    """
    Observe that a job was accepted or reached a final status.

    Called after the change is stored, in the process that made it; an observer that raises is
    logged and skipped, and must not block.
    """
