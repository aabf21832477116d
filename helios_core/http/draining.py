"""Read the rest of a request before its response, so that the client can read the response."""

from collections.abc import Awaitable, Callable
from typing import Final, cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPReceiveMessage, Message, Receive, Scope, Send

MAX_DRAINED_BYTES: Final = 256 * 1024 * 1024
"""Bytes that are read and dropped; the connection of a client that sends more is closed."""


class Draining:
    """
    An ASGI application that drops the rest of a body before its application's response begins.

    Most clients send the whole body before they read. If a connection is closed with unread bytes,
    the system resets it, and the client never sees why its request was refused.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and drain its body before the response."""
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        unread = b"content-length" in headers or b"transfer-encoding" in headers
        # A client with `Expect: 100-continue` sends no body until it is told to; here it is not.
        waits = b"expect" in headers

        async def observe_body() -> HTTPReceiveMessage:
            nonlocal unread, waits
            message = cast("HTTPReceiveMessage", await receive())
            waits = False
            unread = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def drain_first(message: Message) -> None:
            if (
                message["type"] == "http.response.start"
                and unread
                and (waits or not await _drain(observe_body, headers))
            ):
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self.app(scope, observe_body, drain_first)


async def _drain(
    receive: Callable[[], Awaitable[HTTPReceiveMessage]], headers: dict[bytes, bytes]
) -> bool:
    """Drop the rest of a body, and return whether its end came before `MAX_DRAINED_BYTES`."""
    length = headers.get(b"content-length", b"0")
    if len(length) > len(str(MAX_DRAINED_BYTES)) or int(length) > MAX_DRAINED_BYTES:
        return False
    dropped = 0
    while dropped <= MAX_DRAINED_BYTES:
        message = await receive()
        if message["type"] != "http.request":
            return False
        dropped += len(message["body"])
        if not message.get("more_body", False):
            return True
    return False
