"""
Limits on what a connection may send, and on how long it may take.

Uvicorn limits neither the size of a request's head (its request line and headers) nor the time
that a client takes. Its protocol over httptools is extended here, which costs a comparison per
request; decision record 26 has the figures.
"""

import asyncio
from enum import Enum
from http import HTTPStatus
from typing import Any, Final
from uuid import uuid4

import httptools
import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from helios_core.fhir.media_types import FHIR_JSON
from helios_core.fhir.outcomes import outcome_line

MAX_URL_BYTES: Final = 16 * 1024
"""Maximum length of path and query; longer searches and kick-offs are sent by POST."""
MAX_HEAD_BYTES: Final = 64 * 1024
"""Maximum length of request line and headers, and of the trailers of a chunked body."""
MAX_CONNECTIONS: Final = 1000
"""Maximum number of connections. A further one closes the one that has been idle longest."""

HEAD_SECONDS: Final = 10.0
"""Time from a connection, or from the first byte of a further request, to the end of its head."""
BODY_SECONDS: Final = 20.0
"""Time for the first bytes of a body; each further byte adds to it by MIN_BODY_RATE."""
MIN_BODY_RATE: Final = 500
"""Minimum bytes per second of a body; a slower client is an attacker, or of no use."""
SEND_SECONDS: Final = 60.0
"""Time within which a client has to read at least a part of the response that waits for it."""
KEEP_ALIVE_SECONDS: Final = 5
"""Time between two requests of a connection."""
CLOSE_SECONDS: Final = 5.0
"""Time in which a refused client can read the reason; what it still sends is dropped."""

log = structlog.stdlib.get_logger()


class Expected(Enum):
    """What a connection is waiting for from its client."""

    HEAD = "head"
    BODY = "body"
    NOTHING = "nothing"
    """The request is complete; the next one has not begun."""
    CLOSE = "close"
    """The request was refused: everything that follows is dropped."""


class LimitedProtocol(HttpToolsProtocol):
    """
    One connection over HTTP/1.1.

    A request that breaks a limit gets an OperationOutcome, and the connection is closed.
    `check_time` has to be called about every second.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.expected = Expected.HEAD
        self._since = self.loop.time()
        self._silent = True
        """Whether nothing was ever received."""
        self._head_bytes = 0
        self._body_bytes = 0
        self._unsent: tuple[int, float] | None = None
        """The number of bytes that wait to be sent, and since when it has not changed."""
        self._refusal: tuple[HTTPStatus, str] | None = None

    @property
    def idle_since(self) -> float | None:
        """The time since which no request has been in progress, None if one is."""
        return None if self._responding or self.expected is Expected.BODY else self._since

    @property
    def _responding(self) -> bool:
        """Whether a response is due or has begun."""
        cycle: RequestResponseCycle | None = self.cycle  # Uvicorn declares it as always there
        return cycle is not None and not cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection; if there are too many, close the one that was idle longest."""
        connections = self.server_state.connections
        if len(connections) >= MAX_CONNECTIONS:
            idle = [
                (since, number, other)
                for number, other in enumerate(connections)
                if isinstance(other, LimitedProtocol) and (since := other.idle_since) is not None
            ]
            if idle:  # idle connections of an attacker must not keep others out
                _, _, longest = min(idle)
                connections.discard(longest)
                longest.transport.abort()
            else:
                super().connection_made(transport)
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Too many requests at once.")
                return
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, unless the client sends more of a head than it may."""
        if self._refused():
            return
        self._unset_keepalive_if_required()
        # The data may be larger than the limit of a head, because a body may follow it.
        for start in range(0, len(data), MAX_HEAD_BYTES):
            self._feed(data[start : start + MAX_HEAD_BYTES])
            if self._refused():
                return

    def _refused(self) -> bool:
        return self.expected is Expected.CLOSE

    def _feed(self, data: bytes) -> None:
        self._silent = False
        if self.expected is Expected.NOTHING:
            # Even empty lines between two requests start the time of the next head.
            self._expect(Expected.HEAD)
        self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_without_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse(
                *(
                    self._refusal
                    or (HTTPStatus.BAD_REQUEST, "The request is malformed, or is not HTTP/1.1.")
                )
            )
            return
        # The piece in which a head begins is not counted, so a head may be twice as large as the
        # limit until `on_headers_complete` measures it. Trailers and chunk extensions count, too.
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(*_TOO_LARGE)

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """
        Parse a request as if it had not offered another protocol (RFC 9110 §7.8 allows that).

        The parser ends with the head of such a request, and its body would be lost. Java's client
        offers HTTP/2 in its first request, whatever that is.
        """
        head = [self.parser.get_method() + b" " + self.url + b" HTTP/1.1"]
        head += [b": ".join(header) for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(b"\r\n".join(head) + b"\r\n\r\n" + rest)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._expect(Expected.HEAD)

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._fail(*_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. A trailer is dropped: it could replace a header that was checked."""
        if self.expected is Expected.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the head, and start the request."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            self._fail(*_TOO_LARGE)
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            self._fail(HTTPStatus.BAD_REQUEST, "Send exactly one Host header (RFC 9112 §3.2).")
        if self.parser.get_method() == b"CONNECT":
            self._fail(HTTPStatus.NOT_IMPLEMENTED, "CONNECT is not supported; this is no proxy.")
        if not self.parser.should_upgrade():
            self._expect(Expected.BODY)
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._body_bytes += len(body)
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request; its response may end later."""
        if not self.parser.should_upgrade():
            super().on_message_complete()
            self._expect(Expected.NOTHING)

    def check_time(self, now: float) -> None:
        """Close the connection if its client is too slow; `now` is the event loop's time."""
        self._check_sending(now)
        if self.transport.is_closing():
            return
        waited = now - self._since
        match self.expected:
            case Expected.HEAD | Expected.CLOSE if self._responding:
                self._since = now  # the response to an earlier request comes first
            case Expected.HEAD if waited > HEAD_SECONDS:
                if self._silent:
                    self.transport.close()
                else:
                    self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The headers took too long.")
            case Expected.BODY if self.flow.read_paused or self.cycle.waiting_for_100_continue:
                self._since = now  # it is this server that lets the client wait
            case Expected.BODY if waited > BODY_SECONDS + self._body_bytes / MIN_BODY_RATE:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The body took too long.")
            case Expected.CLOSE if waited > CLOSE_SECONDS:
                self.transport.abort()
            case _:
                pass

    def _check_sending(self, now: float) -> None:
        size = self.transport.get_write_buffer_size()
        if not size:
            self._unsent = None
        elif self._unsent is None or self._unsent[0] != size:
            self._unsent = (size, now)
        elif now - self._unsent[1] > SEND_SECONDS:
            self.transport.abort()

    def _expect(self, expected: Expected) -> None:
        if self.expected is not Expected.CLOSE:
            self.expected, self._since = expected, self.loop.time()
            self._head_bytes = self._body_bytes = 0

    def _fail(self, status: HTTPStatus, text: str) -> None:
        """Record a refusal, and stop the parser, which wraps the exceptions of callbacks."""
        self._refusal = (status, text)
        raise ValueError(text)

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """Respond with an error, then drop what is still sent, and close after CLOSE_SECONDS."""
        request_id = uuid4().hex
        log.info("request.refused", status=status.value, reason=text, request_id=request_id)
        in_body = self.expected is Expected.BODY
        self._expect(Expected.CLOSE)
        cycle = self.cycle
        if self._responding:
            if not in_body:
                # The earlier request is in order; its response is the last one.
                cycle.keep_alive = False
                self.pipeline.clear()
                return
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started or self.pipeline:
                self.transport.abort()
                return
        self.transport.write(self._response(status, text, request_id))
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _response(self, status: HTTPStatus, text: str, request_id: str) -> bytes:
        outcome = outcome_line("error", _CODES.get(status, "invalid"), text)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", FHIR_JSON.encode()),
            (b"content-length", b"%d" % len(outcome)),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        line = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
        return line + b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n" + outcome


_CODES: Final = {
    HTTPStatus.NOT_IMPLEMENTED: "not-supported",
    HTTPStatus.REQUEST_TIMEOUT: "timeout",
    HTTPStatus.REQUEST_URI_TOO_LONG: "too-long",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "too-long",
    HTTPStatus.SERVICE_UNAVAILABLE: "transient",
}


_TOO_LONG: Final = (
    HTTPStatus.REQUEST_URI_TOO_LONG,
    f"The URL is longer than {MAX_URL_BYTES} bytes; send a search or a kick-off by POST.",
)
_TOO_LARGE: Final = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"The request line and the headers are larger than {MAX_HEAD_BYTES} bytes together.",
)
