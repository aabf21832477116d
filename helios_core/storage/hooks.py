"""
The hooks of a Helios plugin.

A plugin is a module named by an entry point in group `helios`; the entry-point name is the
plugin's name everywhere: in settings (`HFS_<NAME>_…`), on the command line, in addresses and in
logs. Hooks only describe: each returns a small descriptor. The host opens what the configuration
selects and calls the opened objects directly, so that no hook is called while it serves.
"""

import pluggy

from helios_core.storage.backends import Backend
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

API_LEVEL = 1
"""The level of the plugin contract; a plugin states the level it was written for."""

hookspec = pluggy.HookspecMarker("helios")
hookimpl = pluggy.HookimplMarker("helios")
"""Marks a function of a plugin as its implementation of the hook of that name."""


@hookspec(firstresult=True)
def helios_data_provider() -> Backend[DataProvider] | None:
    """Offer a data provider: where resources live."""


@hookspec(firstresult=True)
def helios_job_store() -> Backend[JobStore] | None:
    """Offer a job store: where job state lives."""


@hookspec(firstresult=True)
def helios_output_store() -> Backend[OutputStore] | None:
    """Offer an output store: where output bytes go."""


@hookspec(firstresult=True)
def helios_search_index() -> Backend[SearchIndex] | None:
    """Offer a search index, kept beside the data of any data provider."""


@hookspec(firstresult=True)
def helios_command() -> CommandExtension | None:
    """Offer a command of `helios`."""


@hookspec(firstresult=True)
def helios_routes() -> RouteExtension | None:
    """Offer HTTP routes under the plugin's own prefix."""


@hookspec(firstresult=True)
def helios_health_checks() -> HealthExtension | None:
    """Offer checks that decide, together with those of the backends, if the server is ready."""


@hookspec(firstresult=True)
def helios_transform() -> TransformExtension | None:
    """Offer a transform of resources on their way out, for example to de-identify them."""


@hookspec(firstresult=True)
def helios_observer() -> ObserverExtension | None:
    """Offer an observer of jobs that are accepted, complete, in error or cancelled."""


@hookspec(firstresult=True)
def helios_token_verifier() -> TokenVerifierExtension | None:
    """Offer a verifier of access tokens."""


@hookspec(firstresult=True)
def helios_file_authorizer() -> FileAuthorizerExtension | None:
    """Offer an authorizer that decides who may export what, and see which export."""
