"""Download one file of an export: resume it after failures, decompress it, count its lines."""

import asyncio
import gzip
import io
import os
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import IO, cast

import httpx
import msgspec
import stamina
import zstandard

from helios_core.client.documents import decode_json
from helios_core.client.errors import ExportFailed, RequestRefused, should_retry
from helios_core.client.manifest import BLOCK_HEADER
from helios_core.client.session import Session, unreachable
from helios_core.client.state import (
    ExportFolder,
    FileCompression,
    PartMark,
    boot_id,
    publish,
    write_atomically,
)

_CHUNK = 1024 * 1024
_PAUSE_SECONDS = 0.2
"""The pause after a connection that broke, but had received something."""
_SYNC_BYTES = 16 * _CHUNK
"""After how many bytes a download is synced to disk; a power cut loses no more than these."""

DAMAGED = (OSError, EOFError, zlib.error, zstandard.ZstdError)
"""The exceptions raised when a compressed file that is read is incomplete or damaged."""

_EXPIRED_STATUSES = frozenset({400, 401, 403, 410})
"""How stores respond to an expired URL: S3 with 403, or with 400 if its credentials expired."""


class DownloadedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file on disk."""

    path: Path
    lines: int
    size: int
    """Bytes of NDJSON."""


class BrokenFile(ExportFailed):
    """All bytes of a file have arrived, but it is not what the server announced."""


class DownloadStopped(ExportFailed):
    """The download was stopped because the process is ending."""


class Download:
    """
    The download of one file.

    Received bytes are kept in the folder of the export until the file is complete, so that it can
    be resumed when the connection breaks or the process ends (RFC 9110 §14.2, §13.1.5).
    `renew_url` returns a new URL of the same bytes for one that has expired. `count` is the number
    of lines that the manifest announces, or None; block headers of organized output do not count.
    """

    def __init__(  # noqa: PLR0913  most of them by keyword
        self,
        url: str,
        target: Path,
        folder: ExportFolder,
        *,
        compression: FileCompression = FileCompression.NONE,
        count: int | None = None,
        organized: bool = False,
        renew_url: Callable[[str], Awaitable[str]] | None = None,
        on_bytes: Callable[[int], None] = lambda _: None,
        stopping: Event | None = None,
    ) -> None:
        self._url = url
        self._target = target
        self._part = folder.part(target.name)
        self._mark = folder.mark(target.name)
        self._new = folder.new(target.name)
        self._compression = compression
        self._count = count
        self._header = BLOCK_HEADER if organized else b""
        self._renew_url = renew_url
        self._on_bytes = on_bytes
        self._stopping = stopping or Event()
        self._synced = 0
        self._received = 0
        self._attempted_from = 0
        self._tag: str | None = None
        self._coding = "identity"
        self.size: int | None = None
        """How many bytes the server announces; None while this is not known."""

    @property
    def received(self) -> int:
        """How many bytes have arrived, counted in the content coding of the response."""
        return self._received

    async def run(self, session: Session) -> DownloadedFile:
        """
        Download the file, or the rest of it.

        Raises:
            BrokenFile: It cannot be decompressed, or does not have the announced lines.
            ExportFailed: The server refuses the request, sends a coding that was not requested, or
                cannot be reached.
            OSError: The file cannot be written.
        """
        finished = await asyncio.to_thread(self._find_finished)
        if finished is not None:
            return finished
        await asyncio.to_thread(self._restore)
        restored = self._received > 0
        await self._fetch_all(session)
        try:
            return await asyncio.to_thread(self._finish)
        except BrokenFile:
            if not restored:
                raise
        # The bytes of an earlier process may have been damaged since, so start again.
        await self._fetch_all(session)
        return await asyncio.to_thread(self._finish)

    def _find_finished(self) -> DownloadedFile | None:
        """Return a file that an earlier process has finished, if it is still intact."""
        for coding in ("identity", "gzip"):
            path = self._compression.path(self._target, coding)
            if not path.is_file():
                continue
            try:
                with open_plain(path) as file:
                    lines, size = _measure(self._read_chunks(file), self._header)
            except DAMAGED:
                path.unlink()
                continue
            if self._count in (None, lines):
                return DownloadedFile(path=path, lines=lines, size=size)
            path.unlink()
        return None

    def _restore(self) -> None:
        """Continue with the bytes that an earlier process has received."""
        try:
            mark = decode_json(self._mark.read_bytes(), PartMark)
            size = self._part.stat().st_size
        except (OSError, msgspec.DecodeError):
            return
        # Bytes that were not synced may be lost, or zeros, if the machine has rebooted since.
        keep = size if mark.boot and mark.boot == boot_id() else min(size, mark.synced)
        os.truncate(self._part, keep)
        self._tag, self._coding, self._synced = mark.etag, mark.coding, min(keep, mark.synced)
        self._received = keep
        self._on_bytes(keep)

    async def _fetch_all(self, session: Session) -> None:
        """Fetch until the file is complete; attempts are counted since the last received byte."""
        while True:
            before = self._received
            try:
                async for attempt in stamina.retry_context(
                    on=self._should_retry,
                    attempts=8,
                    timeout=None,
                    wait_initial=0.2,
                    wait_jitter=0.2,
                    wait_max=20,
                ):
                    with attempt:
                        self._attempted_from = self._received
                        await self._fetch(session)
            except httpx.TransportError as error:
                if self._received <= before:
                    raise unreachable(error, self._url) from error
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return

    def _should_retry(self, error: Exception) -> bool | timedelta:
        progressed = self._received > self._attempted_from
        if progressed and isinstance(error, httpx.TransportError):
            return False
        return should_retry(error)

    async def _fetch(self, session: Session) -> None:
        headers = {
            "Accept": "application/fhir+ndjson, */*;q=0.1",
            "Accept-Encoding": "gzip",
        }
        if self._received and self._tag:
            headers |= {"Range": f"bytes={self._received}-", "If-Range": self._tag}
        async with session.stream(self._url, headers=headers) as response:
            if not response.is_success:
                await response.aread()
                if self._is_complete(response):
                    return
                raise await self._refusal(response)
            self._begin(response)
            await self._save(response)
        if self.size is not None and self._received < self.size:
            raise httpx.RemoteProtocolError(
                f"{self._received} of {self.size} bytes were sent", request=response.request
            )

    def _is_complete(self, response: httpx.Response) -> bool:
        """Return whether the server could not send the range because nothing is missing."""
        return (
            response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE
            and self._received > 0
            and response.headers.get("Content-Range") == f"bytes */{self._received}"
        )

    async def _refusal(self, response: httpx.Response) -> RequestRefused:
        refused = RequestRefused(response)
        if refused.status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            self._restart()
            refused.transient = True
        if (
            refused.status in _EXPIRED_STATUSES
            and "?" in self._url
            and self._renew_url is not None
        ):
            expired, self._url = self._url, await self._renew_url(self._url)
            refused.transient = self._url != expired
        return refused

    def _begin(self, response: httpx.Response) -> None:
        coding = response.headers.get("Content-Encoding", "identity").lower()
        coding = coding.removeprefix("x-")
        if response.status_code == httpx.codes.PARTIAL_CONTENT:
            content_range = response.headers.get("Content-Range", "")
            if not content_range.startswith(f"bytes {self._received}-") or coding != self._coding:
                requested = self._received
                self._forget()
                raise ExportFailed(
                    f"{self._target.name}: the server did not resume at byte {requested}"
                )
            total = content_range.rpartition("/")[2]
            self.size = int(total) if total.isdecimal() else None
            return
        self._restart()
        if coding not in ("identity", "gzip"):
            raise ExportFailed(
                f"{self._target.name} was sent in coding {coding}; gzip was requested"
            )
        self._coding = coding
        tag = response.headers.get("ETag", "")
        # A weak ETag does not promise the same bytes, so the download cannot be resumed by it.
        self._tag = None if tag.startswith("W/") else tag or None
        length = response.headers.get("Content-Length", "")
        self.size = int(length) if length.isdecimal() else None

    def _restart(self) -> None:
        self._on_bytes(-self._received)
        self._received = self._synced = 0
        self._tag = self.size = None
        self._mark.unlink(missing_ok=True)

    async def _save(self, response: httpx.Response) -> None:
        mode = "ab" if self._received else "wb"
        # Unbuffered, so that only bytes on disk are counted, even when the disk is full.
        with await asyncio.to_thread(self._part.open, mode, buffering=0) as raw:
            file = cast("IO[bytes]", raw)
            buffer = bytearray()
            finished = False
            try:
                async for piece in response.aiter_raw():
                    buffer += piece
                    self._on_bytes(len(piece))
                    if len(buffer) >= _CHUNK:
                        full, buffer = buffer, bytearray()
                        await self._append_in_thread(full, file)
                finished = True
            finally:
                # Bytes that arrived before the connection broke need not be sent again.
                self._append(buffer, file, mark=not finished)

    async def _append_in_thread(self, chunk: bytearray, file: IO[bytes]) -> None:
        """Append in a thread; when cancelled, wait for it, so that bytes stay in order."""
        writing = asyncio.ensure_future(asyncio.to_thread(self._append, chunk, file))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            raise

    def _append(self, chunk: bytearray, file: IO[bytes], *, mark: bool = True) -> None:
        rest = memoryview(chunk)
        resumable = mark and self._tag is not None
        # Bytes without a mark are useless to the next process, so the mark comes first.
        if resumable and rest and not self._mark.exists():
            self._write_mark()
        while rest:
            written = file.write(rest)
            self._received += written
            rest = rest[written:]
        if resumable and self._received - self._synced >= _SYNC_BYTES:
            os.fsync(file.fileno())
            self._synced = self._received
            self._write_mark()

    def _write_mark(self) -> None:
        """Note how far the download is, so that another process can continue it."""
        mark = PartMark(
            etag=self._tag or "", coding=self._coding, synced=self._synced, boot=boot_id()
        )
        write_atomically(self._mark, msgspec.json.encode(mark))

    def _finish(self) -> DownloadedFile:
        """Count the lines, compress the file as requested, and give it its name."""
        target = self._compression.path(self._target, self._coding)
        try:
            if self._compression.keeps(self._coding):
                lines, size = self._checked(None)
                publish(self._part, target)
            else:
                with _create(self._new, self._compression) as copy:
                    lines, size = self._checked(copy)
                publish(self._new, target)
        finally:
            self._new.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)
        self._mark.unlink(missing_ok=True)
        return DownloadedFile(path=target, lines=lines, size=size)

    def _checked(self, copy: IO[bytes] | None) -> tuple[int, int]:
        """Return the numbers of lines and bytes of the NDJSON, and write it to `copy`."""
        try:
            with _open(self._part, self._coding) as source:
                chunks = self._read_chunks(source)
                lines, size = _measure(
                    chunks if copy is None else _copied(chunks, copy), self._header
                )
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            self._forget()
            raise BrokenFile(f"{self._target.name} cannot be decompressed: {error}") from error
        if self._count not in (None, lines):
            self._forget()
            raise BrokenFile(
                f"{self._target.name} has {lines} lines; the manifest says {self._count}"
            )
        return lines, size

    def _forget(self) -> None:
        """Drop the received bytes, which are useless."""
        self._restart()
        self._part.unlink(missing_ok=True)

    def _read_chunks(self, file: IO[bytes]) -> Iterator[bytes]:
        while chunk := file.read(_CHUNK):
            if self._stopping.is_set():
                raise DownloadStopped(f"{self._target.name} is not finished yet")
            yield chunk


def open_plain(path: Path) -> IO[bytes]:
    """Open a file for reading its uncompressed content; its suffix names the compression."""
    if path.suffix == ".zst":
        return cast("IO[bytes]", io.BufferedReader(zstandard.open(path, "rb"), _CHUNK))
    return _open(path, "gzip" if path.suffix == ".gz" else "identity")


def _open(path: Path, coding: str) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if coding == "gzip" else path.open("rb")


def _create(path: Path, compression: FileCompression) -> IO[bytes]:
    if compression is FileCompression.ZSTD:
        return cast("IO[bytes]", zstandard.open(path, "wb"))
    return path.open("wb")


def _copied(chunks: Iterable[bytes], target: IO[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        target.write(chunk)
        yield chunk


def _measure(chunks: Iterable[bytes], header: bytes) -> tuple[int, int]:
    """
    Return the numbers of lines, without those that begin with `header`, and of bytes.

    A last line may lack its newline.
    """
    lines = headers = size = 0
    before = b"\n"
    for chunk in chunks:
        lines += chunk.count(b"\n")
        size += len(chunk)
        # `before` is one byte too short for a header, so that none is counted twice.
        window = before + chunk
        headers += window.count(b"\n" + header) if header else 0
        before = window[-max(len(header), 1) :]
    return lines + (before[-1:] != b"\n") - headers, size
