"""
Routes of plugins; each plugin has a path prefix of its own.

The prefix begins with an underscore. No tenant id, resource type or operation does, so it cannot
be confused with a tenant in a path.
"""

from collections.abc import Sequence
from typing import Any

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.exceptions import LitestarException
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Empty, Receive, Scope, Send
from litestar.utils.predicates import is_async_callable

from helios_core.errors import BrokenPlugin
from helios_core.http.access import PLUGIN_PREFIX
from helios_core.http.callers import Guard
from helios_core.http.requests import HTTPRequest
from helios_core.interactions.callers import Caller
from helios_core.storage.backends import OpenedRoutes


def plugin_routers(opened: Sequence[OpenedRoutes], guard: Guard) -> list[Router]:
    """
    Return the routers of plugins.

    Their handlers may take `caller`, a `NamedDependency` of Litestar: the `Caller` of the request,
    whose tenant and FHIR version have been checked.

    Raises:
        BrokenPlugin: One of the handlers cannot be used.
    """
    return [_router(routes, guard) for routes in opened]


def _router(opened: OpenedRoutes, guard: Guard) -> Router:
    def caller(request: HTTPRequest) -> Caller:
        return guard.admit(request, in_any_form=True)

    def router() -> Router:
        return Router(
            f"{PLUGIN_PREFIX}/{opened.plugin}",
            route_handlers=[_checked(handler) for handler in opened.handlers],
            dependencies={"caller": Provide(caller, sync_to_thread=False)},
            middleware=[_Contained],
            opt={"public": opened.public},
        )

    try:
        # Litestar checks handlers only when an application is made of them.
        Litestar([router()], openapi_config=None, logging_config=None)
        return router()
    except BrokenPlugin as error:
        raise BrokenPlugin(f"plugin {opened.plugin} offers a route that {error}") from error
    except (LitestarException, TypeError, ValueError, NameError, AttributeError) as error:
        raise BrokenPlugin(
            f"plugin {opened.plugin} offers routes that cannot be used: {error}"
        ) from error


def _checked(handler: Any) -> HTTPRouteHandler:  # noqa: ANN401  whatever the plugin opened
    if not isinstance(handler, HTTPRouteHandler):
        raise BrokenPlugin(
            f"is not an HTTP route handler of Litestar but of type {type(handler).__name__}"
        )
    if not is_async_callable(handler.fn):
        raise BrokenPlugin(
            f"is not asynchronous, {sorted(handler.paths)}; define it with async def, and call "
            "what blocks with helios_core.in_thread"
        )
    if handler.exception_handlers or handler.request_max_body_size is not Empty:
        raise BrokenPlugin(
            f"has an error handler or a body limit of its own, {sorted(handler.paths)}; errors "
            "are OperationOutcomes and HFS_MAX_BODY_BYTES holds at every address"
        )
    return handler


class _Contained:
    """Keeps a route that exits from ending the process; the client gets an error response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except (SystemExit, KeyboardInterrupt) as error:
            raise RuntimeError(f"a route raised {type(error).__name__}") from error
