"""One log line for every request, without anything that could identify a patient."""

import re
import secrets
import time
from typing import Final

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.stdlib.get_logger()

UNKNOWN_ROUTE: Final = "(no route)"
REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
"""The form of an X-Request-ID that is accepted from the client; any other one is replaced."""
BOUND: Final = ("tenant", "client", "job_id")
"""The fields bound to the log lines of a request while it is processed, besides `request_id`."""


class AccessLog:
    """
    An ASGI application that passes requests to another one and logs its responses.

    A line has the method, the template of the route (never the path), the duration, the status,
    the bytes of the body, and whether the response was sent to its end. All lines of a request
    have its `request_id`, which the response has as X-Request-ID (FHIR R4, http.html#custom).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and log it when its response has ended or has failed."""
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        response, size = {"status": 0, "complete": False}, 0

        async def observe(message: Message) -> None:
            nonlocal size
            if message["type"] == "http.response.start":
                # The status may be a member of an enumeration, which a text log would name.
                response["status"] = int(message["status"])
                header = (b"x-request-id", request_id.encode())
                message["headers"] = [*message.get("headers", ()), header]
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
                response["complete"] = not message.get("more_body", False)
            await send(message)

        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, observe)
            finally:
                log.info(
                    "request.answered",
                    method=scope["method"],
                    route=scope.get("path_template", UNKNOWN_ROUTE),
                    duration_ms=round((time.perf_counter() - started) * 1000, 1),
                    bytes=size,
                    **response,
                )
                structlog.contextvars.unbind_contextvars(*BOUND)


def _request_id(scope: Scope) -> str:
    """Return the id that the client sent with the request, or a new one."""
    values = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(values) == 1 and REQUEST_ID.fullmatch(values[0]):
        return values[0].decode()
    return secrets.token_hex(16)
