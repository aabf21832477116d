"""OPTIONS, by what a 405 at the same address lists."""

from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

UNSERVED: Final = "TRACE"
"""A method that no route has, so that its 405 lists all those that there are."""


class Options:
    """
    An ASGI application that responds to OPTIONS with the methods of the application behind it.

    Litestar's own response lists the methods of one route, and leaves out those of other routes at
    the same address.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; make a response without a body of the 405 to an OPTIONS."""
        if scope["type"] != ScopeType.HTTP or scope["method"] != "OPTIONS":
            await self.app(scope, receive, send)
            return
        allowed: bytes | None = None

        async def translate(message: Message) -> None:
            nonlocal allowed
            if message["type"] == "http.response.start" and message["status"] == 405:  # noqa: PLR2004
                allowed = dict(message["headers"]).get(b"allow", b"")
                message["status"] = 204
                message["headers"] = [(b"allow", allowed)]
            elif message["type"] == "http.response.body" and allowed is not None:
                message["body"] = b""
            await send(message)

        scope["method"] = UNSERVED
        try:
            await self.app(scope, receive, translate)
        finally:
            scope["method"] = "OPTIONS"
