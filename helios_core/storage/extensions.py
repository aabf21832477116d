"""
Extensions: how a plugin describes what it adds to the server beside backends.

Extensions are opened after the backends, in the order of `HFS_PLUGINS`, and closed before them, in
reverse order. A plugin may offer one of each kind.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from helios_core.model.jobs import Job
from helios_core.storage.backends import Backends, Descriptor
from helios_core.storage.file_authorizer import FileAuthorizer
from helios_core.storage.token_verifier import TokenVerifier
from helios_core.storage.transforms import Transform, TransformEffect

T = TypeVar("T")


class CommandHost(Protocol):
    """The services of the server for a command of a plugin."""

    def settings(self) -> Any:  # noqa: ANN401  an instance of the extension's `settings`
        """
        Read the extension's settings.

        Raises:
            ConfigurationError: One is missing or unreadable.
        """
        ...

    def open_backends(self) -> AbstractAsyncContextManager[Backends]:
        """
        Open what the configuration selects, as a worker does.

        Raises:
            ConfigurationError: The configuration is wrong.
            BackendUnavailable: A backend cannot be reached.
        """
        ...

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run asynchronous work to its end and return its result."""
        ...

    def print_table(self, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print texts as a table on a terminal, and as tab-separated values elsewhere."""
        ...


class CommandExtension(Descriptor, frozen=True, kw_only=True):
    """
    A command of `helios`, under the plugin's name or another one: `helios NAME …`.

    C1  The command is there for every plugin named in `HFS_PLUGINS`, and for that of
        `HFS_AUTH_PROVIDER`. It and each of its subcommands and options has a help text.
    C2  `--help` works without any setting; settings are read and backends opened only when a
        command runs.
    C3  A wrong configuration ends a command with exit code 2 and a sentence.
    """

    command: Callable[[CommandHost], Any]
    """Takes the host, returns a `click.Command`, which may be a group."""
    name: str | None = None
    """The name of the command: lower-case words joined by hyphens; None for the plugin's name."""


class RouteExtension(Descriptor, frozen=True, kw_only=True):
    """
    HTTP routes under the plugin's own prefix, `/_plugins/NAME`.

    R1  Every handler is an asynchronous HTTP route handler of Litestar.
    R2  None of them has an error handler or a body limit of its own: errors are OperationOutcomes
        and bodies are limited as at every other address.
    R3  A route without parameters responds to a GET before clients time out, and not with 5xx.
    R4  No request body causes a 5xx response; one that is wrong is the client's error, 4xx.
    """

    open: Callable[[Any, Backends], AbstractAsyncContextManager[Sequence[Any]]]
    """
    Takes an instance of `settings` and the opened backends, yields the route handlers.

    Their data provider shows resources as clients may see them: transformed, and read-only.
    """
    public: bool
    """
    Whether everybody may call the routes. Otherwise callers need an access token if the server
    asks for tokens, and the data provider shows what their scopes allow.
    """


class HealthExtension(Descriptor, frozen=True, kw_only=True):
    """
    Checks that `/health`, `/_readiness` and `helios doctor` run along with those of backends.

    H1  There is at least one, each is asynchronous, and has a name of lower-case letters, digits
        and hyphens.
    H2  A check returns if all is well, and raises if not; it changes nothing.
    H3  A check ends when it is cancelled.
    H4  A check may run again right after it has ended, however it ended.
    """

    open: Callable[
        [Any, Backends], AbstractAsyncContextManager[Mapping[str, Callable[[], Awaitable[object]]]]
    ]
    """Takes an instance of `settings` and the opened backends, yields the checks by name."""
    time_limit: timedelta = timedelta(seconds=2)
    """How long each check may take; above 0, at most 5 seconds."""


class TransformExtension(Descriptor, frozen=True, kw_only=True):
    """A transform of resources on their way out; its clauses are those of `Transform`."""

    implementation: type[Transform]
    """The class of what `open` yields; it may be one that `SupportsRenaming`."""
    open: Callable[[Any], AbstractAsyncContextManager[Transform]]
    """Takes an instance of `settings`, yields the transform; every worker process opens one."""
    effect: TransformEffect
    """What it does to resources."""


Observer = Callable[[Job], Awaitable[None] | None]
"""Takes a job that has changed; asynchronous, or called in a thread of its own."""


class ObserverExtension(Descriptor, frozen=True, kw_only=True):
    """
    An observer of jobs: called when one is accepted, complete, in error or cancelled.

    E1  It accepts a job in any status and of any tenant, known or not.
    E2  The same job may come twice, and events may be lost when a process is killed.
    E3  An asynchronous observer ends when it is cancelled.
    E4  Nothing is left running once the context has ended.
    """

    open: Callable[[Any, Backends], AbstractAsyncContextManager[Observer]]
    """Takes an instance of `settings` and the opened backends, yields the observer."""
    time_limit: timedelta = timedelta(seconds=30)
    """How long one call may take; above 0."""


class FileAuthorizerExtension(Descriptor, frozen=True, kw_only=True):
    """
    An authorizer of exports in place of the core's own; its clauses are those of `FileAuthorizer`.

    It is active if `HFS_PLUGINS` names the plugin and `HFS_AUTH_ENABLED` is true; at most one
    plugin may offer one.
    """

    open: Callable[[Any, Backends], AbstractAsyncContextManager[FileAuthorizer]]
    """Takes an instance of `settings` and the opened backends, yields the authorizer."""
    time_limit: timedelta = timedelta(seconds=5)
    """How long one call may take; above 0, at most 5 seconds. A late one is unavailable."""


class TokenVerifierExtension(Descriptor, frozen=True, kw_only=True):
    """
    A verifier of access tokens; its clauses are those of `TokenVerifier`.

    `HFS_AUTH_PROVIDER` selects it: the value `x` selects plugin `x_auth`, or else plugin `x`.
    """

    open: Callable[[Any, Backends], AbstractAsyncContextManager[TokenVerifier]]
    """Takes an instance of `settings` and the opened backends, yields the verifier."""
    time_limit: timedelta = timedelta(seconds=5)
    """How long one call may take; above 0, at most 5 seconds. A late one is unavailable."""
