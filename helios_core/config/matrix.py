"""The matrix: what each combination of storage and output can do, and why not the rest."""

from collections.abc import Iterable, Sequence

import msgspec

from helios_core.config.plugins import Plugin, has_extra
from helios_core.storage.data_provider import (
    SupportsHistory,
    SupportsPrefilter,
    SupportsSearch,
    SupportsTombstones,
    SupportsWrites,
)
from helios_core.storage.hooks import Reach
from helios_core.storage.output_store import SupportsSignedURLs

STORAGES = ("sqlite", "postgres", "mongodb", "s3")
"""The storage backends Helios knows of, installed or not."""

OUTPUTS = ("local-fs", "s3")
"""The output backends Helios knows of, installed or not."""

INDEX = "elasticsearch"
"""The search index each storage may be combined with."""

POWERS: tuple[tuple[type, str], ...] = (
    (SupportsWrites, "write"),
    (SupportsHistory, "history"),
    (SupportsSearch, "search"),
    (SupportsPrefilter, "filter index"),
    (SupportsTombstones, "deletions"),
    (SupportsSignedURLs, "signed URLs"),
)
"""Every optional power of a backend, and its name."""


class Capability(msgspec.Struct, frozen=True, kw_only=True):
    """One thing a combination does, or why it does not."""

    name: str
    works: bool
    reason: str = ""
    """Why it does not work; empty where it does."""


class Combination(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the matrix."""

    storage: str
    output: str
    selected: bool
    works: bool
    """Whether exports at all three levels work."""
    reason: str = ""
    """Why they do not, and what to do; empty where they do."""
    job_store: str = ""
    """Where the jobs live."""
    reach: str = ""
    """How far apart the processes may be; empty where nothing works."""
    capabilities: tuple[Capability, ...] = ()


def power_names(implementation: type) -> list[str]:
    """Give the names of the optional powers a backend's class has."""
    return [name for protocol, name in POWERS if issubclass(implementation, protocol)]


def matrix(
    plugins: Iterable[Plugin], *, selected: tuple[str, str], known: bool = False
) -> list[Combination]:
    """
    Give a row per combination of what plugins offer.

    `selected` names the configured storage and output backend. With `known`, combinations Helios
    knows of are listed too when they are not installed.
    """
    by_name = {plugin.origin.name: plugin for plugin in plugins}
    storages = [name for name, plugin in by_name.items() if plugin.data_provider]
    outputs = [_spelt(name) for name, plugin in by_name.items() if plugin.output_store]
    if known:
        indexed = (f"{name}-{INDEX}" for name in STORAGES)
        storages = list(dict.fromkeys((*STORAGES, *indexed, *storages)))
        outputs = list(dict.fromkeys((*OUTPUTS, *outputs)))
    return [
        _combination(storage, output, by_name, selected=selected)
        for storage in storages
        for output in outputs
    ]


def with_problem(rows: Iterable[Combination], problem: str) -> list[Combination]:
    """Give rows, the selected one with what would stop its start; empty where nothing would."""
    return [
        msgspec.structs.replace(
            row, works=False, reason=problem, job_store="", reach="", capabilities=()
        )
        if problem and row.selected and row.works
        else row
        for row in rows
    ]


def _combination(
    storage: str, output: str, plugins: dict[str, Plugin], *, selected: tuple[str, str]
) -> Combination:
    primary, _, index = storage.partition("-")
    sink_name = output.replace("-", "")
    provider, sink = plugins.get(primary), plugins.get(sink_name)
    keeper = provider if provider and provider.job_store else plugins.get("sqlite")
    has = {
        _role(primary, provider, "storage"): bool(provider and provider.data_provider),
        index: not index,
        _role(sink_name, sink, "output"): bool(sink and sink.output_store),
        "sqlite": bool(keeper and keeper.job_store),
    }
    missing = [name for name, there in has.items() if not there]
    return Combination(
        storage=storage,
        output=output,
        selected=(storage, output) == selected,
        works=not missing,
        reason=_remedy(missing),
        job_store="" if missing or not keeper else _job_store(primary, keeper),
        reach="" if missing else _reach(provider, keeper, sink),
        capabilities=tuple(_capabilities(provider, sink)) if not missing else (),
    )


def _reach(provider: Plugin | None, keeper: Plugin | None, sink: Plugin | None) -> str:
    chosen = (
        provider and provider.data_provider,
        keeper and keeper.job_store,
        sink and sink.output_store,
    )
    return Reach.common(*(backend.reach for backend in chosen if backend))


def _role(name: str, plugin: Plugin | None, role: str) -> str:
    """Name what is missing: a plugin, or what an installed plugin lacks."""
    return name if plugin is None else f"{name} as {role}"


def _capabilities(provider: Plugin | None, sink: Plugin | None) -> Sequence[Capability]:
    has = [
        power
        for backend in (provider and provider.data_provider, sink and sink.output_store)
        if backend
        for power in power_names(backend.implementation)
    ]
    return [_capability(name, protocol, works=name in has) for protocol, name in POWERS]


def _capability(name: str, protocol: type, *, works: bool) -> Capability:
    side = "output" if protocol is SupportsSignedURLs else "storage"
    return Capability(
        name=name, works=works, reason="" if works else f"the {side} lacks {protocol.__name__}"
    )


def _job_store(primary: str, keeper: Plugin) -> str:
    own = keeper.origin.name == primary
    return keeper.origin.name if own else f"{keeper.origin.name} beside the output"


def _remedy(missing: Sequence[str]) -> str:
    """Say which extras to install, and what no extra of this release installs."""
    ours = [name for name in missing if has_extra(name)]
    install = f"install helios-fhir[{','.join(ours)}]" if ours else ""
    others = ", ".join(name for name in missing if name not in ours)
    absent = f"not part of this release: {others}" if others else ""
    return "; ".join(filter(None, (install, absent)))


def _spelt(name: str) -> str:
    return "local-fs" if name == "localfs" else name
