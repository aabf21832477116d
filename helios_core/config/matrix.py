"""The matrix: what each data provider can do with each output store, and why not the rest."""

from collections.abc import Iterable, Sequence

import msgspec

from helios_core.config.plugins import Plugin, has_extra
from helios_core.storage.backends import Reach
from helios_core.storage.data_provider import (
    SupportsHistory,
    SupportsPrefilter,
    SupportsSearch,
    SupportsTombstones,
    SupportsTypeHistory,
    SupportsWrites,
)
from helios_core.storage.indexed_provider import can_be_indexed, indexed_class
from helios_core.storage.output_store import SupportsSignedURLs
from helios_core.storage.search_index import SupportsChangeFeed

DATA_PROVIDERS = ("sqlite", "postgres", "mongodb", "s3")
"""The data providers Helios knows of, installed or not."""

OUTPUT_STORES = ("local-fs", "s3")
"""The output stores Helios knows of, installed or not."""

INDEX = "elasticsearch"
"""The search index that each data provider may be combined with."""

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
    """An optional power of a combination, or why it lacks it."""

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
    """Whether exports at all three levels work."""
    reason: str = ""
    """Why they do not work, and what to do; empty if they do."""
    job_store: str = ""
    """The plugin that stores the jobs; empty if exports do not work."""
    reach: str = ""
    """How far apart the processes may be; empty if exports do not work."""
    capabilities: tuple[Capability, ...] = ()


def power_names(implementation: type) -> list[str]:
    """Return the names of the optional powers of a backend's class."""
    return [name for protocol, name in POWERS if issubclass(implementation, protocol)]


def matrix(
    plugins: Iterable[Plugin],
    *,
    selected: tuple[str, str],
    known: bool = False,
    job_store: str = "auto",
) -> list[Combination]:
    """
    Return a row for each combination of the plugins' data providers and output stores.

    `selected` names the configured data provider and output store. With `known`, the rows include
    combinations that Helios knows of but that are not installed. `job_store` is the plugin that
    keeps the jobs of all of them; `auto` is that of each data provider if it has one.
    """
    by_name = {plugin.origin.name: plugin for plugin in plugins}
    providers = [name for name, plugin in by_name.items() if plugin.data_provider]
    outputs = [_setting_value(name) for name, plugin in by_name.items() if plugin.output_store]
    if known:
        providers = list(dict.fromkeys((*DATA_PROVIDERS, *providers)))
        outputs = list(dict.fromkeys((*OUTPUT_STORES, *outputs)))
    if known or INDEX in by_name:
        indexable = [name for name in providers if name in DATA_PROVIDERS]
        providers += [f"{name}-{INDEX}" for name in indexable]
    providers = list(dict.fromkeys((*providers, *filter(_is_indexed, selected[:1]))))
    return [
        _combination(provider, output, by_name, selected=selected, job_store=job_store)
        for provider in providers
        for output in outputs
    ]


def _is_indexed(data_provider: str) -> bool:
    return "-" in data_provider


def with_problem(rows: Iterable[Combination], problem: str) -> list[Combination]:
    """Mark the selected row as not working if `problem`, a reason not to start, is not empty."""
    return [
        msgspec.structs.replace(
            row, works=False, reason=problem, job_store="", reach="", capabilities=()
        )
        if problem and row.selected and row.works
        else row
        for row in rows
    ]


def _combination(
    data_provider: str,
    output_store: str,
    plugins: dict[str, Plugin],
    *,
    selected: tuple[str, str],
    job_store: str,
) -> Combination:
    primary, _, index = data_provider.partition("-")
    output_name = output_store.replace("-", "")
    provider, outputs = plugins.get(primary), plugins.get(output_name)
    indexes = plugins.get(index)
    jobs = provider if provider and provider.job_store else plugins.get("sqlite")
    store = "sqlite"
    if job_store != "auto":
        jobs, store = plugins.get(job_store), job_store
    has = {
        _role(primary, provider, "data provider"): bool(provider and provider.data_provider),
        _role(index, indexes, "search index"): not index or bool(indexes and indexes.search_index),
        _role(output_name, outputs, "output store"): bool(outputs and outputs.output_store),
        store: bool(jobs and jobs.job_store),
    }
    missing = [name for name, present in has.items() if not present]
    reason = _remedy(missing)
    if index and not missing and not _can_be_indexed(provider):
        reason = f"{primary} lacks {SupportsChangeFeed.__name__}, which a search index needs"
    return Combination(
        data_provider=data_provider,
        output_store=output_store,
        selected=(data_provider, output_store) == selected,
        works=not reason,
        reason=reason,
        job_store="" if reason or not jobs else _job_store(primary, jobs),
        reach="" if reason else _reach(provider, indexes, jobs, outputs),
        capabilities=()
        if reason
        else tuple(_capabilities(provider, outputs, indexed=bool(index))),
    )


def _can_be_indexed(provider: Plugin | None) -> bool:
    backend = provider.data_provider if provider else None
    return backend is not None and can_be_indexed(backend.implementation)


def _reach(
    provider: Plugin | None,
    indexes: Plugin | None,
    jobs: Plugin | None,
    outputs: Plugin | None,
) -> str:
    backends = (
        provider and provider.data_provider,
        indexes and indexes.search_index,
        jobs and jobs.job_store,
        outputs and outputs.output_store,
    )
    return Reach.common(*(backend.reach for backend in backends if backend))


def _role(name: str, plugin: Plugin | None, role: str) -> str:
    """Return how to name what is missing: a plugin, or the role that a plugin does not offer."""
    return name if plugin is None else f"{name} as {role}"


def _capabilities(
    provider: Plugin | None, outputs: Plugin | None, *, indexed: bool
) -> Sequence[Capability]:
    implementations = list[type]()
    if provider and provider.data_provider:
        own = provider.data_provider.implementation
        implementations.append(indexed_class(own) if indexed else own)
    if outputs and outputs.output_store:
        implementations.append(outputs.output_store.implementation)
    powers = [power for each in implementations for power in power_names(each)]
    return [_capability(name, protocol, works=name in powers) for protocol, name in POWERS]


def _capability(name: str, protocol: type, *, works: bool) -> Capability:
    role = "output store" if protocol is SupportsSignedURLs else "data provider"
    return Capability(
        name=name, works=works, reason="" if works else f"the {role} lacks {protocol.__name__}"
    )


def _job_store(primary: str, jobs: Plugin) -> str:
    beside = jobs.origin.name == "sqlite" != primary
    return f"{jobs.origin.name} beside the output" if beside else jobs.origin.name


def _remedy(missing: Sequence[str]) -> str:
    """Return which extras to install, and which plugins no extra of this release installs."""
    ours = [name for name in missing if has_extra(name)]
    install = f"install helios-fhir[{','.join(ours)}]" if ours else ""
    others = ", ".join(name for name in missing if name not in ours)
    absent = f"not part of this release: {others}" if others else ""
    return "; ".join(filter(None, (install, absent)))


def _setting_value(name: str) -> str:
    """Return how `HFS_BULK_EXPORT_OUTPUT_BACKEND` spells a plugin."""
    return "local-fs" if name == "localfs" else name
