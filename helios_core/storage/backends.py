"""Backends: how a plugin describes one, and what a process has opened."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from helios_core.model.jobs import Job
from helios_core.storage.data_provider import DataProvider
from helios_core.storage.file_authorizer import FileAuthorizer, ScopeAuthorizer
from helios_core.storage.indexer import Indexer
from helios_core.storage.job_store import JobStore
from helios_core.storage.output_store import OutputStore
from helios_core.storage.token_verifier import TokenVerifier
from helios_core.storage.transform_chain import NO_TRANSFORMS, Transforms

T = TypeVar("T")


class Reach(StrEnum):
    """How far apart processes that share a backend's data may be, from near to far."""

    PROCESS = "one process"
    MACHINE = "one machine"
    MACHINES = "many machines"

    @classmethod
    def common(cls, *reaches: "Reach") -> "Reach":
        """Return the nearest of several reaches, the farthest that all of them allow."""
        return min(reaches, key=list(cls).index)


class NoSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a plugin that has none."""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that the result of every hook has."""

    api_level: int
    """The `API_LEVEL` the plugin was written for."""
    settings: type[msgspec.Struct] = NoSettings
    """
    The settings that the plugin reads, one field each.

    Field `x` of plugin `p` is read from `HFS_P_X`, unless the field's `msgspec.Meta` carries
    `extra={"name": "HFS_…"}`, another name for it, or `extra={"setting": "HFS_…"}`, a setting of
    the server that it shares. `title` in the Meta is its unit, `description` its meaning.
    """


class Backend(Descriptor, Generic[T], frozen=True, kw_only=True):
    """The description of one backend that a plugin offers."""

    implementation: type[T]
    """The class of the backend; its powers are the protocols that the class satisfies."""
    open: Callable[[Any], AbstractAsyncContextManager[T]]
    """Takes an instance of `settings`, yields the backend; leaving the context closes it."""
    reach: Reach = Reach.MACHINE
    """How far apart processes of one configuration may be; HFS_CLUSTER needs `MACHINES`."""
    migrate: Callable[[Any], Awaitable[str]] | None = None
    """Brings the backend's schema up to date and returns in one line what it did."""
    files: Callable[[Any], Sequence[Path]] = lambda _settings: ()
    """Takes an instance of `settings`, returns the local files and folders it keeps data in."""


class OpenedRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """The HTTP routes of one plugin."""

    plugin: str
    handlers: Sequence[Any]
    """Route handlers of Litestar, their paths relative to the plugin's prefix."""
    public: bool
    """Whether everybody may call them, without any authorisation."""


class OpenedHealthChecks(msgspec.Struct, frozen=True, kw_only=True):
    """The health checks of one plugin."""

    plugin: str
    checks: Mapping[str, Callable[[], Awaitable[object]]]
    time_limit: timedelta


class Backends(msgspec.Struct, frozen=True, kw_only=True):
    """The opened backends of one process, and what else its plugins have opened."""

    data_provider: DataProvider
    job_store: JobStore
    output_store: OutputStore
    indexer: Indexer | None = None
    """Keeps the search index of the data provider up to date; None if there is no index."""
    announce: Callable[[Job], None]
    """Passes a job that has changed to the observers; returns at once and never raises."""
    reach: Reach = Reach.PROCESS
    """How far apart processes that use all three backends may be."""
    transforms: Transforms = NO_TRANSFORMS
    """
    Applied to every line of an export and, as each transform declares, to reads over REST.
    """
    routes: Sequence[OpenedRoutes] = ()
    health_checks: Sequence[OpenedHealthChecks] = ()
    token_verifier: TokenVerifier | None = None
    """Verifies access tokens; None if everybody may do everything."""
    file_authorizer: FileAuthorizer = ScopeAuthorizer()
    """Decides who may start an export, and who may see it."""
