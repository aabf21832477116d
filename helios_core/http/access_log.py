"""One log line for every answered request, without anything that could name a patient."""

import time
from typing import Final

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.stdlib.get_logger()

UNKNOWN: Final = "(no route)"


class AccessLog:
    """An ASGI application that wraps another one and logs what it answers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and log it when its answer has ended, well or not."""
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        answered = {"status": 0, "complete": False}

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered["status"] = message["status"]
            elif message["type"] == "http.response.body":
                answered["complete"] = not message.get("more_body", False)
            await send(message)

        begun = time.perf_counter()
        try:
            await self.app(scope, receive, observed)
        finally:
            log.info(
                "request.answered",
                method=scope["method"],
                route=scope.get("path_template", UNKNOWN),
                duration_ms=round((time.perf_counter() - begun) * 1000, 1),
                **answered,
            )
