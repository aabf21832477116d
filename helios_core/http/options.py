"""Respond to OPTIONS with the methods that a 405 at the same address lists."""

from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

NO_CONTENT: Final = 204
UNSERVED: Final = "TRACE"
"""A method that no route has, so that its 405 lists all methods of an address."""


class Options:
    """
    An ASGI application that completes the Allow header in another one's responses to OPTIONS.

    Litestar's own response lists the methods of one route, and leaves out those of other routes at
    the same address. Litestar still checks access, and responds to CORS preflight requests.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and list in the response to OPTIONS what a 405 would."""
        if (
            scope["type"] != ScopeType.HTTP
            or scope["method"] != "OPTIONS"
            or b"access-control-request-method" in dict(scope["headers"])
        ):
            await self.app(scope, receive, send)
            return
        allowed = await self._allowed(scope, receive)

        async def complete(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == NO_CONTENT:
                message["headers"] = [(b"allow", allowed)]
            await send(message)

        await self.app(scope, receive, complete)

    async def _allowed(self, scope: HTTPScope, receive: Receive) -> bytes:
        """Return the methods that a 405 at an address lists; empty if there is none."""
        allowed = b""

        async def listen(message: Message) -> None:
            nonlocal allowed
            if message["type"] == "http.response.start":
                allowed = dict(message["headers"]).get(b"allow", b"")

        probe: HTTPScope = {**scope, "method": UNSERVED, "state": {**scope.get("state", {})}}
        await self.app(probe, receive, listen)
        return allowed
