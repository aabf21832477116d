"""Load the plugins that the configuration selects, and open their backends."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from helios_core.config.environment import unknown_variable
from helios_core.config.extensions import (
    SelectedExtension,
    open_file_authorizer,
    open_health_checks,
    open_observers,
    open_routes,
    open_token_verifier,
    open_transforms,
    read_descriptor_settings,
)
from helios_core.config.plugins import (
    Plugin,
    auth_plugin,
    find_plugin,
    installed_plugins,
    load_plugin,
)
from helios_core.config.settings import (
    OWN,
    AccessToken,
    Settings,
    WithoutIndex,
    read_settings,
)
from helios_core.errors import BrokenPlugin, ConfigurationError
from helios_core.storage.backends import Backend, Backends, Descriptor, Reach
from helios_core.storage.data_provider import DataProvider
from helios_core.storage.extensions import CommandExtension, TokenVerifierExtension
from helios_core.storage.index_lookups import IndexLookups
from helios_core.storage.indexed_provider import can_be_indexed, indexed_provider
from helios_core.storage.indexer import Indexer
from helios_core.storage.job_store import JobStore
from helios_core.storage.observers import JobAnnouncer
from helios_core.storage.output_store import OutputStore, SupportsSignedURLs
from helios_core.storage.search_index import SearchIndex

T = TypeVar("T")

DRAIN_SHARE = 0.05
"""The share of HFS_WORKER_SHUTDOWN_TIMEOUT in which an observer may finish its last calls."""

AUTH_PREFIXES = ("HFS_AUTH_", "HFS_SMART_")
"""The prefixes of the settings of this project's token verifiers."""

AUTH_PROVIDER = "HFS_AUTH_PROVIDER"

AUTO = "auto"
"""The job store of the data provider's plugin, or the sidecar if it has none."""

WITHOUT_URL = frozenset({"sqlite", "memory"})
"""The job stores that need no address."""

SIDECAR = "bulk_export.db"
"""The job database in the output folder, for a data provider whose plugin has no job store."""

DATABASE_URL = "HFS_DATABASE_URL"
JOB_STORE_URL = "HFS_BULK_EXPORT_JOB_STORE_URL"


class SelectedBackend(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A backend the configuration selects, with its settings."""

    plugin: Plugin
    backend: Backend[T]
    settings: Any
    address: str = DATABASE_URL
    """The setting whose value the plugin reads as HFS_DATABASE_URL."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[T]:
        """Open the backend; leaving the context closes it."""
        async with AsyncExitStack() as stack:
            with self._address_named():
                opened = await stack.enter_async_context(self.backend.open(self.settings))
            yield opened

    def files(self) -> Sequence[Path]:
        """Return the local files and folders that it keeps data in."""
        with self._address_named():
            return self.backend.files(self.settings)

    async def migrate(self) -> str | None:
        """Migrate its schema and return what was done; None if it has none."""
        if self.backend.migrate is None:
            return None
        with self._address_named():
            return await self.backend.migrate(self.settings)

    @contextmanager
    def _address_named(self) -> Iterator[None]:
        """Replace HFS_DATABASE_URL in errors by the setting that really has the address."""
        try:
            yield
        except ConfigurationError as error:
            error.found = error.found.replace(DATABASE_URL, self.address)
            error.advice = error.advice.replace(DATABASE_URL, self.address)
            raise

    def require_files(self) -> None:
        """
        Check that the files exist, because opening the backend would create them.

        Raises:
            ConfigurationError: One of them is missing.
        """
        for path in self.files():
            if not path.exists():
                raise ConfigurationError(
                    f"there is no database at {path}",
                    advice=f"correct HFS_DATA_DIR or {self.address}, or create it with "
                    "helios serve, load or migrate",
                )


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The plugins and backends a configuration selects: imported and checked, but not opened."""

    settings: Settings
    plugins: tuple[Plugin, ...]
    data_provider: SelectedBackend[DataProvider]
    job_store: SelectedBackend[JobStore]
    output_store: SelectedBackend[OutputStore]
    search_index: SelectedBackend[SearchIndex] | None = None
    """The search index of the data provider; None if that searches by itself."""
    extensions: tuple[SelectedExtension, ...] = ()
    """The plugins' extensions except commands and token verifiers, in the order of `plugins`."""
    token_verifier: SelectedExtension | None = None
    """The verifier of access tokens; None if HFS_AUTH_ENABLED is false."""

    @property
    def backends(self) -> "tuple[SelectedBackend[Any], ...]":
        """Every selected backend, the data provider first."""
        index = () if self.search_index is None else (self.search_index,)
        return self.data_provider, *index, self.job_store, self.output_store


def configure(environ: Mapping[str, str]) -> Selection:
    """
    Read the whole configuration from environment variables.

    Raises:
        ConfigurationError: As `select` does.
    """
    return select(*read_settings(environ))


def select(settings: Settings, problems: Sequence[str] = ()) -> Selection:
    """
    Import the plugins that settings select and read their settings.

    Raises:
        ConfigurationError: Something is wrong. The message lists everything, including `problems`
            found earlier; if all problems are of one subclass, that subclass is raised.
    """
    return _Choice(settings, [ConfigurationError(problem) for problem in problems]).selection()


def selected_names(settings: Settings) -> set[str]:
    """Return the names of the plugins that settings select, installed or not."""
    names = {_primary(settings), _output(settings), *settings.plugins}
    names |= {_index(settings)} - {""}
    names |= {settings.bulk_export_job_store} - {AUTO}
    if settings.auth_enabled:
        names.add(
            auth_plugin(settings.auth_provider, {plugin.name for plugin in installed_plugins()})
        )
    return names


@asynccontextmanager
async def open_backends(settings: Settings, *, serving: bool = False) -> AsyncIterator[Backends]:
    """
    Open what settings select; leaving the context closes it in reverse order.

    Only `serving` processes open the token verifier, the file authorizer, and the routes and
    health checks of plugins.

    Raises:
        ConfigurationError: As `select` does, or a backend or extension refuses to open.
        BackendUnavailable: A backend cannot be reached.
    """
    selection = select(settings)
    extensions, announcer = selection.extensions, JobAnnouncer()
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(selection.data_provider.open())
        indexer = None
        if selection.search_index is not None:
            index = await stack.enter_async_context(selection.search_index.open())
            indexer = Indexer(provider, index, interval=settings.search_index_interval)
            indexed = indexed_provider(
                provider,
                IndexLookups(index, on_failure=indexer.miss),
                falls_back=settings.search_index_down is WithoutIndex.FALLBACK,
                on_write=indexer.wake,
            )
            stack.push_async_callback(indexed.close)
            provider = indexed
        jobs = await stack.enter_async_context(selection.job_store.open())
        outputs = await stack.enter_async_context(selection.output_store.open())
        await outputs.bind(jobs.identity)
        backends = Backends(
            data_provider=provider,
            job_store=jobs,
            output_store=outputs,
            indexer=indexer,
            announce=announcer.announce,
            reach=Reach.common(*(chosen.backend.reach for chosen in selection.backends)),
            # A worker stuck in a transform must not keep its shard longer than one that died.
            transforms=await open_transforms(
                stack, extensions, time_limit=settings.bulk_export_lease_duration
            ),
        )
        drain = settings.worker_shutdown_timeout * DRAIN_SHARE
        await open_observers(stack, extensions, backends, announcer, drain=drain)
        if serving:
            backends = msgspec.structs.replace(
                backends,
                token_verifier=await open_token_verifier(
                    stack, selection.token_verifier, backends
                ),
                file_authorizer=await open_file_authorizer(stack, extensions, backends),
            )
            backends = msgspec.structs.replace(
                backends,
                routes=await open_routes(stack, extensions, backends),
                health_checks=await open_health_checks(stack, extensions, backends),
            )
        yield backends


async def migrate(selection: Selection) -> list[tuple[str, str]]:
    """Migrate the schema of every selected backend; return names of plugins and their reports."""
    done: list[tuple[str, str]] = []
    seen: list[tuple[object, object]] = []
    for chosen in selection.backends:
        step = chosen.backend.migrate, chosen.settings
        # A plugin that offers two backends on one database migrates it once.
        if step not in seen and (report := await chosen.migrate()) is not None:
            seen.append(step)
            done.append((chosen.plugin.origin.name, report))
    return done


class _Choice:
    """Selects plugins, and collects all problems of the configuration to report them together."""

    def __init__(self, settings: Settings, problems: list[ConfigurationError]) -> None:
        self._settings = settings
        self._problems = problems
        self._installed = installed_plugins()
        self._loaded: dict[str, Plugin] = {}
        self._environ = settings.for_plugins()

    def selection(self) -> Selection:
        provider = self._provider()
        index = self._search_index(provider)
        jobs = self._jobs(provider.plugin) if provider else None
        outputs = self._outputs()
        for name in self._settings.plugins:
            self._load(name, "HFS_PLUGINS")
        verifier = self._verifier()
        extensions = self._extensions()
        self._check_names()
        if provider is None or jobs is None or outputs is None or self._problems:
            raise _together(self._problems)
        return Selection(
            settings=self._settings,
            plugins=tuple(self._loaded.values()),
            data_provider=provider,
            job_store=jobs,
            output_store=outputs,
            search_index=index,
            extensions=extensions,
            token_verifier=verifier,
        )

    def _extensions(self) -> tuple[SelectedExtension, ...]:
        return tuple(
            SelectedExtension(
                origin=plugin.origin,
                extension=extension,
                settings=self._read_settings(plugin, extension),
            )
            for plugin in self._loaded.values()
            for extension in plugin.extensions.values()
            # A command reads its settings when it runs, and only one verifier is selected.
            if not isinstance(extension, CommandExtension | TokenVerifierExtension)
        )

    def _verifier(self) -> SelectedExtension | None:
        if not self._settings.auth_enabled:
            if self._settings.auth_provider != Settings().auth_provider:
                self._problems.append(ConfigurationError(_needs_auth(AUTH_PROVIDER)))
            return None
        name = auth_plugin(
            self._settings.auth_provider, {plugin.name for plugin in self._installed}
        )
        plugin = self._load(name, AUTH_PROVIDER, role="token verifier")
        if plugin is None or plugin.token_verifier is None:
            return None
        return SelectedExtension(
            origin=plugin.origin,
            extension=plugin.token_verifier,
            settings=self._read_settings(plugin, plugin.token_verifier),
        )

    def _provider(self) -> SelectedBackend[DataProvider] | None:
        setting = "HFS_STORAGE_BACKEND"
        plugin = self._load(_primary(self._settings), setting, role="data provider")
        return self._select_backend(plugin, plugin.data_provider, setting) if plugin else None

    def _search_index(
        self, provider: SelectedBackend[DataProvider] | None
    ) -> SelectedBackend[SearchIndex] | None:
        setting = "HFS_STORAGE_BACKEND"
        name = _index(self._settings)
        if not name:
            return None
        plugin = self._load(name, setting, role="search index")
        if provider and not can_be_indexed(provider.backend.implementation):
            self._problems.append(
                ConfigurationError(
                    f"{setting} selects search index {name}, and {provider.plugin.origin} does not"
                    " list the changes that an index follows; select another data provider, or no "
                    "search index"
                )
            )
        return self._select_backend(plugin, plugin.search_index, setting) if plugin else None

    def _jobs(self, primary: Plugin) -> SelectedBackend[JobStore] | None:
        name, setting = self._settings.bulk_export_job_store, "HFS_BULK_EXPORT_JOB_STORE"
        if name == AUTO and primary.job_store is not None:
            name, setting = primary.origin.name, "HFS_STORAGE_BACKEND"
        elif name == AUTO:
            name = "sqlite"
            setting = f"HFS_STORAGE_BACKEND ({primary.origin.name}, which has no job store)"
        plugin = self._load(name, setting, role="job store")
        url = self._job_store_url(name, primary)
        if plugin is None or (name != primary.origin.name and url is None):
            return None
        return self._select_backend(plugin, plugin.job_store, setting, url)

    def _job_store_url(self, name: str, primary: Plugin) -> str | None:
        """Return the address of a separate job store; None if there is none, or no address."""
        url = self._settings.bulk_export_job_store_url
        if name == primary.origin.name:
            if url is not None:
                self._problems.append(
                    ConfigurationError(
                        f"{JOB_STORE_URL} is set, but {name} stores the jobs with the resources; "
                        "remove it, or select another plugin in HFS_BULK_EXPORT_JOB_STORE"
                    )
                )
            return None
        if url is not None:
            return url.reveal()
        if name in WITHOUT_URL:
            return str(self._settings.output_dir / SIDECAR)
        self._problems.append(
            ConfigurationError(
                f"HFS_BULK_EXPORT_JOB_STORE is {name}, which is not the data provider, and "
                f"{JOB_STORE_URL} is not set; set it to the address of the jobs"
            )
        )
        return None

    def _outputs(self) -> SelectedBackend[OutputStore] | None:
        name = _output(self._settings)
        setting = "HFS_BULK_EXPORT_OUTPUT_BACKEND"
        plugin = self._load(name, setting, role="output store")
        if plugin and plugin.output_store:
            self._check_links(plugin, plugin.output_store)
        return self._select_backend(plugin, plugin.output_store, setting) if plugin else None

    def _load(self, name: str, setting: str, *, role: str | None = None) -> Plugin | None:
        try:
            if name not in self._loaded:
                self._loaded[name] = load_plugin(
                    find_plugin(name, self._installed, setting=setting)
                )
            plugin = self._loaded[name]
            offered = (*plugin.offers, *plugin.extensions)
            if role is None or role in offered:
                return plugin
            offers = ", ".join(offered) or "nothing"
            raise BrokenPlugin(f"{setting} needs a {role}; {plugin.origin} offers {offers}")
        except ConfigurationError as error:
            self._problems.append(error)
            return None

    def _select_backend(
        self, plugin: Plugin, backend: Backend[T] | None, setting: str, url: str | None = None
    ) -> SelectedBackend[T] | None:
        """Return the selected backend; with `url`, it reads its address from there."""
        if backend is None:
            return None
        self._check_reach(plugin, backend, setting)
        settings = self._read_settings(plugin, backend, url)
        address = DATABASE_URL if url is None else JOB_STORE_URL
        return SelectedBackend(plugin=plugin, backend=backend, settings=settings, address=address)

    def _read_settings(
        self, plugin: Plugin, descriptor: Descriptor, url: str | None = None
    ) -> Any:  # noqa: ANN401
        environ = self._environ if url is None else {**self._environ, DATABASE_URL: url}
        settings, problems = read_descriptor_settings(plugin.origin, descriptor, environ)
        if url is not None:
            problems = [problem.replace(DATABASE_URL, JOB_STORE_URL) for problem in problems]
        self._problems += map(ConfigurationError, problems)
        return settings

    def _check_reach(self, plugin: Plugin, backend: Backend[Any], setting: str) -> None:
        if self._settings.cluster and backend.reach is not Reach.MACHINES:
            self._problems.append(
                ConfigurationError(
                    f"{setting} selects plugin {plugin.origin.name}, whose reach is "
                    f"{backend.reach}, and HFS_CLUSTER is true; select one whose reach is "
                    f"{Reach.MACHINES}: `helios plugins` shows the reach of what is installed, "
                    "helios-fhir[cluster] installs more"
                )
            )

    def _check_links(self, plugin: Plugin, backend: Backend[OutputStore]) -> None:
        only_links = self._settings.bulk_export_requires_access_token is AccessToken.FALSE
        if only_links and not issubclass(backend.implementation, SupportsSignedURLs):
            self._problems.append(
                ConfigurationError(
                    "HFS_BULK_EXPORT_REQUIRES_ACCESS_TOKEN is false, and output store "
                    f"{plugin.origin.name} cannot sign links that need no token; set it to auto "
                    "or true, or select an output store that can: `helios plugins` shows which"
                )
            )

    def _check_names(self) -> None:
        known = {variable.name for variable in OWN}
        for plugin in self._loaded.values():
            known |= {variable.name for variable in plugin.variables}
        # The settings of plugins that are not selected are not known, only their prefixes.
        idle = tuple(
            prefix
            for other in self._installed
            if other.name not in self._loaded
            for prefix in other.prefixes
        )
        for name in sorted(self._settings.others):
            if name.startswith(AUTH_PREFIXES) and not self._settings.auth_enabled:
                self._problems.append(ConfigurationError(_needs_auth(name)))
            elif name not in known and not name.startswith(idle):
                self._problems.append(ConfigurationError(unknown_variable(name, known)))


def _needs_auth(name: str) -> str:
    """Return a sentence: a server that was to verify tokens must not be open to everybody."""
    return (
        f"{name} is for a verifier of access tokens, and HFS_AUTH_ENABLED is not true; set that "
        f"to true, or remove {name}"
    )


def _primary(settings: Settings) -> str:
    """Return the name of the data provider's plugin, without that of its search index."""
    return settings.storage_backend.partition("-")[0]


def _index(settings: Settings) -> str:
    """Return the name of the search index's plugin, or an empty text if none is selected."""
    return settings.storage_backend.partition("-")[2]


def _output(settings: Settings) -> str:
    """Return the name of the output store's plugin: `local-fs` is traditional for `localfs`."""
    return settings.bulk_export_output_backend.replace("-", "")


def _together(problems: Sequence[ConfigurationError]) -> ConfigurationError:
    distinct = list({str(problem): problem for problem in problems}.values())
    if len(distinct) == 1:
        return distinct[0]
    lines = "\n".join(f"- {problem}" for problem in distinct)
    kinds = {type(problem) for problem in distinct}
    kind = kinds.pop() if len(kinds) == 1 else ConfigurationError
    return kind(f"{len(distinct)} problems in the configuration:\n{lines}")
