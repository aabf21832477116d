"""The installed plugins: listed from their metadata, and imported one by one on demand."""

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points, metadata
from types import ModuleType
from typing import Any

import msgspec
import pluggy

from helios_core.config.descriptors import KINDS, descriptor_problems
from helios_core.config.environment import PREFIX, Variable, describe_variables, nearest_name
from helios_core.errors import BrokenPlugin, DuplicatePlugin, UnknownPlugin
from helios_core.storage import hooks
from helios_core.storage.backends import Backend, Descriptor
from helios_core.storage.data_provider import DataProvider
from helios_core.storage.extensions import (
    CommandExtension,
    FileAuthorizerExtension,
    HealthExtension,
    ObserverExtension,
    RouteExtension,
    TokenVerifierExtension,
    TransformExtension,
)
from helios_core.storage.job_store import JobStore
from helios_core.storage.output_store import OutputStore
from helios_core.storage.search_index import SearchIndex

CORE = "helios-fhir"
"""The distribution of the core; the names of its plugins' distributions begin with it."""

GROUP = "helios"
"""The entry-point group of Helios plugins."""


class InstalledPlugin(msgspec.Struct, frozen=True, kw_only=True):
    """One entry point of one distribution."""

    name: str
    """The entry point's name, which is the plugin's name everywhere."""
    module: str
    distribution: str
    version: str

    @property
    def prefixes(self) -> tuple[str, str]:
        """The prefixes of the names of the plugin's own settings, the traditional one included."""
        name = self.name.upper()
        return f"{PREFIX}{name}_", f"{PREFIX}BULK_EXPORT_{name}_"

    def __str__(self) -> str:
        return f"plugin {self.name} of {self.distribution} {self.version}"

    def load(self) -> ModuleType:
        """
        Import the plugin's module.

        Raises:
            BrokenPlugin: It cannot be imported, or its name cannot be a part of settings.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise BrokenPlugin(
                f"{self}: the name must be a lower-case word, because settings are named after it"
            )
        try:
            module = EntryPoint(self.name, self.module, GROUP).load()
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {error}"
            raise BrokenPlugin(
                f"{self} cannot be imported from {self.module}: {reason}"
            ) from error
        if not isinstance(module, ModuleType):
            raise BrokenPlugin(f"{self}: {self.module} is not a module")
        return module


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """An imported plugin and what it offers."""

    origin: InstalledPlugin
    data_provider: Backend[DataProvider] | None = None
    job_store: Backend[JobStore] | None = None
    output_store: Backend[OutputStore] | None = None
    search_index: Backend[SearchIndex] | None = None
    command: CommandExtension | None = None
    routes: RouteExtension | None = None
    health_checks: HealthExtension | None = None
    transform: TransformExtension | None = None
    observer: ObserverExtension | None = None
    token_verifier: TokenVerifierExtension | None = None
    file_authorizer: FileAuthorizerExtension | None = None

    @property
    def offers(self) -> Mapping[str, Backend[Any]]:
        """The plugin's backends by role: data provider, job store, output store, search index."""
        named: dict[str, Backend[Any] | None] = {
            "data provider": self.data_provider,
            "job store": self.job_store,
            "output store": self.output_store,
            "search index": self.search_index,
        }
        return {role: backend for role, backend in named.items() if backend is not None}

    @property
    def extensions(self) -> Mapping[str, Descriptor]:
        """The plugin's extensions besides backends, by kind."""
        named: dict[str, Descriptor | None] = {
            "command": self.command,
            "routes": self.routes,
            "health checks": self.health_checks,
            "transform": self.transform,
            "observer": self.observer,
            "token verifier": self.token_verifier,
            "file authorizer": self.file_authorizer,
        }
        return {kind: extension for kind, extension in named.items() if extension is not None}

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The settings of everything the plugin offers, without repetition."""
        named = {
            variable.name: variable
            for descriptor in (*self.offers.values(), *self.extensions.values())
            for variable in describe_variables(descriptor.settings, plugin=self.origin.name)
        }
        return tuple(named.values())


def installed_plugins() -> list[InstalledPlugin]:
    """
    Return every installed plugin, sorted by name.

    If two distributions claim one name, both are listed.
    """
    plugins = {
        InstalledPlugin(
            name=entry.name,
            module=entry.value,
            distribution=entry.dist.name,
            version=entry.dist.version,
        )
        for entry in entry_points(group=GROUP)
        if entry.dist is not None
    }
    return sorted(plugins, key=lambda plugin: (plugin.name, plugin.distribution))


def find_plugin(name: str, choices: Sequence[InstalledPlugin], *, setting: str) -> InstalledPlugin:
    """
    Return the plugin of that name.

    Raises:
        UnknownPlugin: No installed plugin has the name.
        DuplicatePlugin: More than one plugin has the name.
    """
    matching = [plugin for plugin in choices if plugin.name == name]
    if not matching:
        raise UnknownPlugin(_unknown(name, choices, setting))
    if len(matching) > 1:
        claims = " and ".join(f"{plugin.distribution} {plugin.version}" for plugin in matching)
        raise DuplicatePlugin(
            f"{setting} selects plugin {name}, a name that {claims} share; uninstall all but one"
        )
    return matching[0]


def has_extra(name: str) -> bool:
    """Return whether an extra of this release installs the plugin."""
    known = metadata(CORE).get_all("Provides-Extra") or []
    return name in known or name.replace("_", "-") in known


def is_released_with_core(origin: InstalledPlugin) -> bool:
    """Return whether a plugin is of this project, whose plugins have the version of the core."""
    own = origin.distribution == CORE
    return own or has_extra(origin.distribution.removeprefix(f"{CORE}-"))


def auth_plugin(provider: str, installed: Container[str]) -> str:
    """Return the name of the plugin that HFS_AUTH_PROVIDER selects: `x_auth` or else `x`."""
    long = f"{provider}_auth"
    known = long in installed or (provider not in installed and has_extra(long))
    return long if known else provider


def load_plugin(origin: InstalledPlugin) -> Plugin:
    """
    Import a plugin and call its hooks to learn what it offers.

    Raises:
        BrokenPlugin: It cannot be imported, or violates the contract of the hooks.
    """
    manager = pluggy.PluginManager("helios")
    manager.add_hookspecs(hooks)
    try:
        manager.register(origin.load(), name=origin.name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise BrokenPlugin(f"{origin} violates the contract of the hooks: {error}") from error
    offers = {hook: _offer(origin, hook, getattr(manager.hook, hook)) for hook in KINDS}
    return Plugin(
        origin=origin, **{hook.removeprefix("helios_"): offer for hook, offer in offers.items()}
    )


def load_all_plugins() -> Iterator[Plugin | tuple[InstalledPlugin, BrokenPlugin]]:
    """Import every installed plugin, selected or not; yield a broken one with its error."""
    for origin in installed_plugins():
        try:
            yield load_plugin(origin)
        except BrokenPlugin as error:
            yield origin, error


def _offer(origin: InstalledPlugin, hook: str, call: Callable[[], Any]) -> Any:  # noqa: ANN401
    try:
        offer = call()
    except (Exception, SystemExit) as error:
        raise BrokenPlugin(f"{origin} fails to describe itself: {error!r}") from error
    if offer is not None:
        for problem in descriptor_problems(hook, offer, plugin=origin.name):
            raise BrokenPlugin(f"{origin} {problem}")
    return offer


def _unknown(name: str, choices: Sequence[InstalledPlugin], setting: str) -> str:
    names = sorted({plugin.name for plugin in choices})
    if has_extra(name):
        advice = f"install helios-fhir[{name}]"
    elif guess := nearest_name(name, names):
        advice = f"the nearest is {guess}"
    else:
        advice = "install the distribution that provides it"
    listed = ", ".join(names) or "none"
    return (
        f"{setting} selects plugin {name}, which is not installed (installed: {listed}); {advice}"
    )
