"""The matrix: what each data provider can do with each output store, or why it cannot."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any

import msgspec

from helios_core.config.environment import describe_variables
from helios_core.config.plugins import InstalledPlugin, Plugin, has_extra
from helios_core.config.selection import AUTO, WITHOUT_URL
from helios_core.errors import BrokenPlugin
from helios_core.storage.backends import Backend, Reach
from helios_core.storage.data_provider import (
    DataProvider,
    SupportsChangeFeed,
    SupportsHistory,
    SupportsPrefilter,
    SupportsSearch,
    SupportsTombstones,
    SupportsTypeHistory,
    SupportsWrites,
)
from helios_core.storage.indexed_provider import can_be_indexed, indexed_class
from helios_core.storage.output_store import SupportsSignedURLs

DATA_PROVIDERS = ("sqlite", "postgres", "mongodb", "s3")
"""The data providers Helios knows of, installed or not."""

OUTPUT_STORES = ("local-fs", "s3")
"""The output stores Helios knows of, installed or not."""

INDEX = "elasticsearch"
"""The search index that each data provider may be combined with."""

JOB_STORES = ("sqlite", "postgres", "mongodb")
"""The plugins of this release that offer a job store, installed or not."""

BACKEND_SETTINGS = ("HFS_STORAGE_BACKEND", "HFS_BULK_EXPORT_OUTPUT_BACKEND")
"""The settings that select a data provider and an output store."""

SIDECAR_STORE = "sqlite"
"""The plugin that keeps the jobs for data providers whose plugin has no job store."""

POWERS: tuple[tuple[type, str], ...] = (
    (SupportsWrites, "write"),
    (SupportsHistory, "history"),
    (SupportsTypeHistory, "history of types"),
    (SupportsChangeFeed, "change feed"),
    (SupportsSearch, "search"),
    (SupportsPrefilter, "filter index"),
    (SupportsTombstones, "deletions"),
    (SupportsSignedURLs, "signed URLs"),
)
"""Every optional power of a backend, with its name."""


class Capability(msgspec.Struct, frozen=True, kw_only=True):
    """An optional power, and whether a combination has it."""

    name: str
    works: bool
    reason: str = ""
    """Why it does not work; empty if it does."""


class Combination(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the matrix."""

    data_provider: str
    output_store: str
    selected: bool
    works: bool
    """Whether exports at all three levels work once `required` is set."""
    reason: str = ""
    """Why they do not work, and what to do; empty if they do."""
    install: str = ""
    """The requirement that installs what is missing; empty if no extra of this release does."""
    settings: Mapping[str, str] = MappingProxyType({})
    """The settings that select it, by name."""
    required: tuple[str, ...] = ()
    """The names of the settings without a default that it needs, once it is installed."""
    job_store: str = ""
    """The plugin that stores the jobs; empty if exports do not work."""
    reach: str = ""
    """How far apart the processes may be; empty if exports do not work."""
    capabilities: tuple[Capability, ...] = ()

    @property
    def name(self) -> str:
        """The data provider and the output store, for example `postgres/s3`."""
        return f"{self.data_provider}/{self.output_store}"


def power_names(implementation: type) -> list[str]:
    """Return the names of the optional powers of a backend's class."""
    return [name for protocol, name in POWERS if issubclass(implementation, protocol)]


def matrix(
    plugins: Iterable[Plugin | tuple[InstalledPlugin, BrokenPlugin]],
    *,
    selected: tuple[str, str],
    known: bool = False,
    job_store: str = AUTO,
) -> list[Combination]:
    """
    Return a row for each combination of the plugins' data providers and output stores.

    `selected` names the configured data provider and output store, which have a row in any case.
    With `known`, the rows include combinations that Helios knows of but that are not installed.
    `job_store` is the plugin that keeps the jobs of all of them; `auto` is that of each data
    provider if it has one.
    """
    usable: dict[str, Plugin] = {}
    broken: dict[str, BrokenPlugin] = {}
    for plugin in plugins:
        if isinstance(plugin, Plugin):
            usable[plugin.origin.name] = plugin
        else:
            broken[plugin[0].name] = plugin[1]
    providers = [name for name, plugin in usable.items() if plugin.data_provider]
    outputs = [_setting_value(name) for name, plugin in usable.items() if plugin.output_store]
    if known:
        providers = list(dict.fromkeys((*DATA_PROVIDERS, *providers)))
        outputs = list(dict.fromkeys((*OUTPUT_STORES, *outputs)))
    if known or INDEX in usable:
        indexable = [name for name in providers if name in DATA_PROVIDERS]
        providers += [f"{name}-{INDEX}" for name in indexable]
    return [
        _Row(provider, output, usable, job_store).combination(broken, selected)
        for provider, output in dict.fromkeys((*product(providers, outputs), selected))
    ]


def with_problem(rows: Iterable[Combination], problem: str) -> list[Combination]:
    """
    Return the rows, the selected one not working because of `problem`, unless that is empty.

    A plugin that the row needs and that is not installed takes precedence as its reason.
    """
    return [
        msgspec.structs.replace(
            row, works=False, reason=problem, job_store="", reach="", capabilities=()
        )
        if problem and row.selected and not row.install
        else row
        for row in rows
    ]


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """A role in a combination, and the plugin for it."""

    name: str
    role: str
    plugin: Plugin | None
    """None if it is not installed, or broken."""

    @property
    def backend(self) -> Backend[Any] | None:
        """The backend that the plugin offers in that role."""
        return self.plugin.offers.get(self.role) if self.plugin else None


class _Row:
    """The parts of a combination, and what follows from them."""

    def __init__(
        self, data_provider: str, output_store: str, plugins: Mapping[str, Plugin], job_store: str
    ) -> None:
        self._data_provider = data_provider
        self._output_store = output_store
        primary, _, index = data_provider.partition("-")
        output = output_store.replace("-", "")
        provider = plugins.get(primary)
        if job_store == AUTO:
            own = provider.job_store if provider else primary in JOB_STORES
            job_store = primary if own else SIDECAR_STORE
        roles = [(primary, "data provider"), (index, "search index"), (output, "output store")]
        self._indexed = bool(index)
        self._provider, *self._others = (
            _Part(name=name, role=role, plugin=plugins.get(name))
            for name, role in [*roles, (job_store, "job store")]
            if name
        )
        self._outputs, self._jobs = self._others[-2:]

    def combination(
        self, broken: Mapping[str, BrokenPlugin], selected: tuple[str, str]
    ) -> Combination:
        parts = [self._provider, *self._others]
        missing = [part for part in parts if part.backend is None]
        names = (self._data_provider, self._output_store)
        install, reason = _remedy(missing, broken)
        if self._indexed and not missing and not self._can_be_indexed():
            reason = (
                f"{self._provider.name} lacks {SupportsChangeFeed.__name__}, "
                "which a search index needs"
            )
        row = Combination(
            data_provider=self._data_provider,
            output_store=self._output_store,
            selected=names == selected,
            works=not reason,
            reason=reason,
            install=install,
            settings=dict(zip(BACKEND_SETTINGS, names, strict=True)),
        )
        if reason:
            return row
        return msgspec.structs.replace(
            row,
            required=tuple(dict.fromkeys(self._required())),
            job_store=self._job_store(),
            reach=Reach.common(*(part.backend.reach for part in parts if part.backend)),
            capabilities=tuple(self._capabilities()),
        )

    def _required(self) -> Iterator[str]:
        """Yield the names of the settings without a default."""
        for part in (self._provider, *self._others):
            separate = part is self._jobs and part.name != self._provider.name
            if separate and part.name not in WITHOUT_URL:
                yield "HFS_BULK_EXPORT_JOB_STORE_URL"
            shape = part.backend.settings if part.backend else None
            for variable in describe_variables(shape, plugin=part.name) if shape else ():
                # A separate job store gets its address from the setting above, or a default.
                if variable.required and not (separate and variable.name == "HFS_DATABASE_URL"):
                    yield variable.name

    def _can_be_indexed(self) -> bool:
        backend = self._provider.backend
        return backend is not None and can_be_indexed(backend.implementation)

    def _capabilities(self) -> Iterator[Capability]:
        implementations = list[type]()
        if self._provider.backend:
            own: type[DataProvider] = self._provider.backend.implementation
            implementations.append(indexed_class(own) if self._indexed else own)
        if self._outputs.backend:
            implementations.append(self._outputs.backend.implementation)
        powers = [power for class_ in implementations for power in power_names(class_)]
        for protocol, name in POWERS:
            yield _capability(name, protocol, works=name in powers)

    def _job_store(self) -> str:
        name = self._jobs.name
        is_sidecar = name == SIDECAR_STORE != self._provider.name
        return f"{name} beside the output" if is_sidecar else name


def _capability(name: str, protocol: type, *, works: bool) -> Capability:
    role = "output store" if protocol is SupportsSignedURLs else "data provider"
    return Capability(
        name=name, works=works, reason="" if works else f"the {role} lacks {protocol.__name__}"
    )


def _remedy(missing: Sequence[_Part], broken: Mapping[str, BrokenPlugin]) -> tuple[str, str]:
    """Return the requirement that installs missing plugins, and why each part is missing."""
    absent = dict.fromkeys(
        part.name for part in missing if part.plugin is None and part.name not in broken
    )
    extras = sorted(name for name in absent if has_extra(name))
    install = f"helios-fhir[{','.join(extras)}]" if extras else ""
    reasons = [f"install {install}"] if install else []
    reasons += dict.fromkeys(str(broken[part.name]) for part in missing if part.name in broken)
    others = [name for name in absent if name not in extras]
    others += [f"{part.name} as {part.role}" for part in missing if part.plugin]
    if others:
        reasons.append(f"not part of this release: {', '.join(others)}")
    return install, "; ".join(reasons)


def _setting_value(name: str) -> str:
    """Return the name of a plugin as `HFS_BULK_EXPORT_OUTPUT_BACKEND` spells it."""
    return "local-fs" if name == "localfs" else name
