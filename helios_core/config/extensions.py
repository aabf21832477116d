"""Read the settings of descriptors, and open the extensions of plugins."""

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, TypeVar

import msgspec

from helios_core.config.environment import describe_variables, read_variables
from helios_core.config.plugins import InstalledPlugin
from helios_core.errors import BrokenPlugin, ConfigurationError, HeliosError
from helios_core.storage.backends import Backends, Descriptor, OpenedHealthChecks, OpenedRoutes
from helios_core.storage.extensions import (
    FileAuthorizerExtension,
    HealthExtension,
    ObserverExtension,
    RouteExtension,
    TokenVerifierExtension,
    TransformExtension,
)
from helios_core.storage.file_authorizer import (
    ContainedAuthorizer,
    FileAuthorizer,
    ScopeAuthorizer,
)
from helios_core.storage.observers import JobAnnouncer
from helios_core.storage.permitted_reads import READING
from helios_core.storage.request_principal import guarded_backends
from helios_core.storage.token_verifier import ContainedVerifier, TokenVerifier
from helios_core.storage.transform_chain import OpenedTransform, Transforms
from helios_core.storage.transformed_reads import visible_backends

E = TypeVar("E", bound=Descriptor)

_CHECK_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class SelectedExtension(msgspec.Struct, frozen=True, kw_only=True):
    """An extension of a selected plugin, with its settings."""

    origin: InstalledPlugin
    extension: Descriptor
    settings: Any


def read_descriptor_settings(
    origin: InstalledPlugin, descriptor: Descriptor, environ: Mapping[str, str]
) -> tuple[Any, list[str]]:
    """Return the settings of a descriptor, or None and a sentence for each problem."""
    known = describe_variables(descriptor.settings, plugin=origin.name)
    values, problems = read_variables(known, environ)
    if problems:
        return None, problems
    try:
        return descriptor.settings(**values), []
    except (ValueError, ConfigurationError) as error:
        return None, [f"the settings of {origin} cannot be used: {error}"]


async def open_transforms(
    stack: AsyncExitStack, selected: Sequence[SelectedExtension], *, time_limit: timedelta
) -> Transforms:
    """
    Open the transforms; `time_limit` is that of `Transforms`.

    Raises:
        ConfigurationError: One of them refuses to open.
    """
    opened = list[OpenedTransform]()
    for chosen, extension in _of_kind(selected, TransformExtension):
        transform = await _enter(stack, chosen, extension.open, chosen.settings)
        if not isinstance(transform, extension.implementation):
            raise BrokenPlugin(
                f"{chosen.origin} opens a transform that is not a "
                f"{extension.implementation.__name__}, which its descriptor promises"
            )
        opened.append(
            OpenedTransform(
                plugin=chosen.origin.name, transform=transform, effect=extension.effect
            )
        )
    return Transforms(opened, time_limit=time_limit)


async def open_observers(
    stack: AsyncExitStack,
    selected: Sequence[SelectedExtension],
    backends: Backends,
    announcer: JobAnnouncer,
    *,
    drain: timedelta,
) -> None:
    """
    Open the observers and pass them announced jobs; closing an observer may take `drain`.

    Raises:
        ConfigurationError: One of them refuses to open.
    """
    for chosen, extension in _of_kind(selected, ObserverExtension):
        observer = await _enter(stack, chosen, extension.open, chosen.settings, backends)
        if not callable(observer):
            raise BrokenPlugin(f"{chosen.origin} opens an observer that cannot be called")
        await stack.enter_async_context(
            announcer.observed_by(
                chosen.origin.name, observer, time_limit=extension.time_limit, drain=drain
            )
        )


async def open_routes(
    stack: AsyncExitStack, selected: Sequence[SelectedExtension], backends: Backends
) -> list[OpenedRoutes]:
    """
    Open the routes, with backends that show only what their clients may see.

    A public route can read every resource, as transforms leave it. Every other route can read what
    the scopes of the request's client allow.

    Raises:
        ConfigurationError: One of them refuses to open.
    """
    opened = list[OpenedRoutes]()
    for chosen, extension in _of_kind(selected, RouteExtension):
        allowed = backends if extension.public else guarded_backends(backends, READING)
        handlers = await _enter(
            stack, chosen, extension.open, chosen.settings, visible_backends(allowed)
        )
        opened.append(
            OpenedRoutes(plugin=chosen.origin.name, handlers=handlers, public=extension.public)
        )
    return opened


async def open_health_checks(
    stack: AsyncExitStack, selected: Sequence[SelectedExtension], backends: Backends
) -> list[OpenedHealthChecks]:
    """
    Open the health checks.

    Raises:
        ConfigurationError: One of them refuses to open, or opens something else.
    """
    opened = list[OpenedHealthChecks]()
    for chosen, extension in _of_kind(selected, HealthExtension):
        checks = await _enter(stack, chosen, extension.open, chosen.settings, backends)
        if not isinstance(checks, Mapping) or not checks:
            raise BrokenPlugin(
                f"{chosen.origin} must open a mapping of at least one health check by its name"
            )
        for name, check in checks.items():
            _check_health_check(chosen.origin, name, check)
        opened.append(
            OpenedHealthChecks(
                plugin=chosen.origin.name, checks=dict(checks), time_limit=extension.time_limit
            )
        )
    return opened


async def open_token_verifier(
    stack: AsyncExitStack, selected: SelectedExtension | None, backends: Backends
) -> TokenVerifier | None:
    """
    Open the verifier of access tokens, and contain its faults; return None if there is none.

    Raises:
        ConfigurationError: It refuses to open, or opens something else.
        BackendUnavailable: It needs an issuer that cannot be reached.
    """
    if selected is None:
        return None
    extension = selected.extension
    assert isinstance(extension, TokenVerifierExtension)  # noqa: S101  it was selected as one
    verifier = await _enter(stack, selected, extension.open, selected.settings, backends)
    if not isinstance(verifier, TokenVerifier):
        raise BrokenPlugin(f"{selected.origin} opens a token verifier that is not a TokenVerifier")
    return ContainedVerifier(verifier, time_limit=extension.time_limit)


async def open_file_authorizer(
    stack: AsyncExitStack, selected: Sequence[SelectedExtension], backends: Backends
) -> FileAuthorizer:
    """
    Open the authorizer of exports that a plugin offers, or else that of the core.

    Raises:
        ConfigurationError: It refuses to open, opens something else, or there are several.
    """
    offered = _of_kind(selected, FileAuthorizerExtension)
    if not offered:
        return ScopeAuthorizer()
    if len(offered) > 1:
        names = " and ".join(chosen.origin.name for chosen, _ in offered)
        raise ConfigurationError(
            f"HFS_PLUGINS selects {names}, which all decide who may export what; keep one of them"
        )
    [(chosen, extension)] = offered
    authorizer = await _enter(stack, chosen, extension.open, chosen.settings, backends)
    if not isinstance(authorizer, FileAuthorizer):
        raise BrokenPlugin(f"{chosen.origin} opens a file authorizer that is not a FileAuthorizer")
    return ContainedAuthorizer(authorizer, time_limit=extension.time_limit)


def is_asynchronous(function: object) -> bool:
    """Return whether calling an object runs it as a coroutine and so cannot block the loop."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  the method is inspected, not called
    )


def _check_health_check(
    origin: InstalledPlugin, name: object, check: Callable[[], Awaitable[object]]
) -> None:
    if not isinstance(name, str) or not _CHECK_NAME.fullmatch(name):
        raise BrokenPlugin(
            f"{origin} names a health check {name!r}; a name is lower-case letters, digits and "
            "hyphens between them"
        )
    if not is_asynchronous(check):
        raise BrokenPlugin(
            f"{origin} has a health check {name} that is not asynchronous; define it with async "
            "def, and run blocking calls with helios_core.in_thread"
        )


def _of_kind(
    selected: Sequence[SelectedExtension], kind: type[E]
) -> list[tuple[SelectedExtension, E]]:
    return [(item, item.extension) for item in selected if isinstance(item.extension, kind)]


async def _enter(
    stack: AsyncExitStack,
    selected: SelectedExtension,
    opener: Callable[..., Any],
    *arguments: object,
) -> Any:  # noqa: ANN401  whatever the plugin opens
    try:
        return await stack.enter_async_context(opener(*arguments))
    except (HeliosError, asyncio.CancelledError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise ConfigurationError(
            f"{selected.origin} cannot open its {type(selected.extension).__name__}: "
            f"{type(error).__name__}: {error}"
        ) from error
