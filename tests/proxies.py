"""A network on a bad day: proxies on real sockets that delay, cut and answer with errors."""

import asyncio
import random
import re
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Self

CHUNK = 64 * 1024
DELAY_SECONDS = 1.0

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


class Fault(StrEnum):
    """What may befall a connection, or a request where the proxy speaks HTTP."""

    DELAY = "delay"
    CUT_REQUEST = "cut request"
    CUT_RESPONSE = "cut response"
    ERROR_403 = "403 AccessDenied"
    ERROR_500 = "500 InternalError"
    ERROR_501 = "501 NotImplemented"
    ERROR_503 = "503 SlowDown"


class Proxy:
    """
    Passes bytes between clients and one server, and breaks what it is told to break.

    It runs in a thread of its own. `faults` says with which probability each fault befalls a
    connection; assign to it at any time. `cut()` ends what is open now, `close()` also refuses
    what comes, until `open()`.
    """

    def __init__(
        self,
        upstream: tuple[str, int] | str,
        *,
        seed: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Stand before a host and port, or the path of a Unix socket, and end TLS if told to."""
        self._tls = tls
        self.faults: Mapping[Fault, float] = {}
        self.done: Counter[Fault] = Counter()
        """How often each fault came true."""
        self._upstream = upstream
        self._chance = random.Random(seed)
        self._refusing = False
        self._writers: set[Writer] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=lambda: self._loop.run_until_complete(self._run()), name="proxy"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """End every connection that is open, without a word to either side."""
        self._loop.call_soon_threadsafe(self._cut)

    def close(self) -> None:
        """Be gone: end what is open and refuse what comes."""
        self._refusing = True
        self.cut()

    def open(self) -> None:
        """Be there again."""
        self._refusing = False

    def freeze(self) -> None:
        """Pass nothing on from now on, and keep every connection."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    async def _run(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listener, ssl=self._tls)
        await self._ended.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: Reader, writer: Writer) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        self._writers.add(writer)
        try:
            if not self._refusing:
                with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                    await self._converse(reader, writer)
        finally:
            self._drop(writer)

    async def _converse(self, reader: Reader, writer: Writer) -> None:
        """Serve one connection from beginning to end."""
        fault = self._fault()
        if fault is Fault.DELAY:
            await asyncio.sleep(DELAY_SECONDS)
        await self._relay(reader, writer, fault=fault)

    async def _relay(
        self,
        reader: Reader,
        writer: Writer,
        *,
        fault: Fault | None,
        head: bytes = b"",
        body: int | None = None,
    ) -> None:
        """Pass a request of known length, or whatever comes, and what is answered."""
        upstream, up = await self._connect()
        self._writers.add(up)
        try:
            up.write(head)
            limits = self._limits(fault, body)
            sending = asyncio.ensure_future(self._pass(reader, up, limits[0]))
            answering = asyncio.ensure_future(self._pass(upstream, writer, limits[1]))
            try:
                # A request ends before its answer; a connection ends when either side has gone.
                await asyncio.wait([sending, answering], return_when=asyncio.FIRST_COMPLETED)
                if body is not None and fault is not Fault.CUT_REQUEST:
                    await answering
            finally:
                for task in (sending, answering):
                    task.cancel()
                await asyncio.gather(sending, answering, return_exceptions=True)
            if fault in (Fault.CUT_REQUEST, Fault.CUT_RESPONSE):
                raise ConnectionResetError
            await _finish(up)
            await _finish(writer)
        finally:
            self._drop(up)

    async def _pass(self, source: Reader, target: Writer | None, limit: int | None) -> None:
        """Pass bytes until the source ends or the limit is reached."""
        left = limit
        while left is None or left > 0:
            chunk = await source.read(CHUNK if left is None else min(CHUNK, left))
            if not chunk:
                return
            left = None if left is None else left - len(chunk)
            await self._flowing.wait()
            if target is not None:
                target.write(chunk)
                await target.drain()

    async def _connect(self) -> tuple[Reader, Writer]:
        if isinstance(self._upstream, str):
            return await asyncio.open_unix_connection(self._upstream)
        return await asyncio.open_connection(*self._upstream)

    def _limits(self, fault: Fault | None, body: int | None) -> tuple[int | None, int | None]:
        """After how many bytes of the request and of the answer to stop; None is never."""
        # Early as often as late, whatever the length.
        early = int(10 ** self._chance.uniform(0, 5))
        if fault is Fault.CUT_REQUEST:
            return (early if body is None else min(early, body // 2)), None
        return body, early if fault is Fault.CUT_RESPONSE else None

    def _fault(self) -> Fault | None:
        dice = self._chance.random()
        for fault, probability in self.faults.items():
            if dice < probability:
                self.done[fault] += 1
                return fault
            dice -= probability
        return None

    def _cut(self) -> None:
        for writer in list(self._writers):
            self._drop(writer)

    def _drop(self, writer: Writer) -> None:
        """Reset a connection: what is cut must not look like a proper end."""
        self._writers.discard(writer)
        if not writer.is_closing():
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


class HTTPProxy(Proxy):
    """
    As `Proxy`, request by request, and with answers of its own: errors as S3 gives them.

    The Host header stays as the client wrote it, since signatures cover it. A connection serves
    one request. Faults befall those requests only whose head matches `only`, where that is set.
    """

    only: re.Pattern[bytes] | None = None

    async def _converse(self, reader: Reader, writer: Writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = _length(head)
        spared = self.only is not None and not self.only.search(head)
        fault = None if spared else self._fault()
        if fault is Fault.DELAY:
            await asyncio.sleep(DELAY_SECONDS)
        if fault is not None and fault.value[0].isdigit():
            await self._refuse(reader, writer, fault=fault, body=body)
            return
        head = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head)
        head = head[:-2] + b"Connection: close\r\n\r\n"
        await self._relay(reader, writer, fault=fault, head=head, body=body)

    async def _refuse(
        self, reader: Reader, writer: Writer, *, fault: Fault, body: int | None
    ) -> None:
        """Answer as a server that is overwhelmed."""
        status, code = fault.value.split()
        text = f"<Error><Code>{code}</Code><Message>Please try again.</Message></Error>"
        writer.write(
            f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\n"
            f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode()
        )
        await writer.drain()
        await self._pass(reader, None, body)
        await _finish(writer)


def _length(head: bytes) -> int | None:
    """How long the body of a request is; None where only its end tells."""
    if re.search(rb"(?i)\r\ntransfer-encoding:", head):
        return None
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return int(length[1]) if length else 0


async def _finish(writer: Writer) -> None:
    """End properly, so that the client gets everything before the connection is dropped."""
    with suppress(OSError, TimeoutError):
        await asyncio.wait_for(writer.drain(), DELAY_SECONDS)
        writer.close()
        await writer.wait_closed()
