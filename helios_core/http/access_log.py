"""One log line for every request, without anything that could identify a patient."""

import time
from typing import Final

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.stdlib.get_logger()

UNKNOWN_ROUTE: Final = "(no route)"


class AccessLog:
    """
    An ASGI application that passes requests to another one and logs its responses.

    A line has the method, the template of the route (never the path), the duration and the status,
    and whether the response was sent to its end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and log it when its response has ended or has failed."""
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        response = {"status": 0, "complete": False}

        async def observe(message: Message) -> None:
            if message["type"] == "http.response.start":
                response["status"] = message["status"]
            elif message["type"] == "http.response.body":
                response["complete"] = not message.get("more_body", False)
            await send(message)

        started = time.perf_counter()
        try:
            await self.app(scope, receive, observe)
        finally:
            log.info(
                "request.answered",
                method=scope["method"],
                route=scope.get("path_template", UNKNOWN_ROUTE),
                duration_ms=round((time.perf_counter() - started) * 1000, 1),
                **response,
            )
