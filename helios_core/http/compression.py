"""Compressed responses, by Accept-Encoding (RFC 9110 sections 8.4 and 12.5.3)."""

from collections.abc import Sequence
from typing import Final

from isal import igzip
from litestar.enums import ScopeType
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp, HTTPResponseStartEvent, Message, Receive, Scope, Send

from helios_core.fhir.media_types import FHIR_JSON
from helios_core.fhir.outcomes import outcome_line
from helios_core.http.negotiation import accepts_identity, prefers_gzip
from helios_core.storage.threads import compute

MIN_BYTES: Final = 1024
"""Smaller bodies are sent as they are: they fit into one packet."""
LEVEL: Final = 1
"""From 0, the fastest, to 3, the smallest (ISA-L)."""
JSON: Final = (b"application/json", FHIR_JSON.encode())
MAX_HEADER_BYTES: Final = 4 * 1024
"""A longer Accept-Encoding is not parsed, as if it were absent."""
REFUSAL: Final = outcome_line(
    "error",
    "not-supported",
    "Accept-Encoding allows neither gzip nor identity, and this server has no other coding.",
)


def compressed(body: bytes) -> bytes:
    """Return a body in the content coding gzip, always the same for the same bytes."""
    packed: bytes = igzip.compress(body, compresslevel=LEVEL, mtime=0)
    return packed


class CompressedResponses:
    """
    An ASGI application that compresses the JSON responses of another one.

    Responses that already have a Content-Encoding, come in pieces or are not JSON pass unchanged:
    the route of export files negotiates its own encoding.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and compress its response if the client prefers that."""
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        lines = [v.decode("latin-1") for k, v in scope["headers"] if k == b"accept-encoding"]
        if sum(map(len, lines)) > MAX_HEADER_BYTES:
            lines = []
        gzip_preferred, identity = prefers_gzip(lines), accepts_identity(lines)
        if not gzip_preferred and not identity:
            await ASGIResponse(
                body=b"" if scope["method"] == "HEAD" else REFUSAL,
                status_code=406,
                media_type=FHIR_JSON,
                headers={"Vary": "Accept-Encoding"},
            )(scope, receive, send)
            return
        exchange = _Exchange(
            send, head=scope["method"] == "HEAD", compress=gzip_preferred, always=not identity
        )
        await self.app(scope, receive, exchange.send)


class _Exchange:
    """The response to one request; its start is held back until the body's encoding is known."""

    def __init__(self, send: Send, *, head: bool, compress: bool, always: bool) -> None:
        self._send = send
        self._head = head
        self._compress = compress
        self._min_bytes = 1 if always else MIN_BYTES
        self._start: HTTPResponseStartEvent | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if _is_plain_json(message):
                self._start = message
                return
        elif message["type"] == "http.response.body" and self._start is not None:
            start, self._start = self._start, None
            headers = [*start["headers"]]
            _add_vary(headers)
            if self._compress and not message.get("more_body", False):
                body = message["body"]
                size = _content_length(headers) if self._head else len(body)
                if size >= self._min_bytes:
                    message["body"] = body = await compute(len(body), compressed, body)
                    headers = [pair for pair in headers if pair[0] != b"content-length"]
                    headers.append((b"content-encoding", b"gzip"))
                    if not self._head:  # a HEAD does not compress what it does not send
                        headers.append((b"content-length", str(len(body)).encode()))
            start["headers"] = headers
            await self._send(start)
        await self._send(message)


def _is_plain_json(start: HTTPResponseStartEvent) -> bool:
    headers = dict(start["headers"])
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip()
    return media_type in JSON and b"content-encoding" not in headers


def _content_length(headers: Sequence[tuple[bytes, bytes]]) -> int:
    length = dict(headers).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


def _add_vary(headers: list[tuple[bytes, bytes]]) -> None:
    """Add Accept-Encoding to what a response depends on (Vary)."""
    others = [value for name, value in headers if name == b"vary"]
    if not any(b"accept-encoding" in value.lower() for value in others):
        headers[:] = [pair for pair in headers if pair[0] != b"vary"]
        headers.append((b"vary", b", ".join([*others, b"Accept-Encoding"])))
