"""Download one file of an export: resume after a failure, decompress, count the lines."""

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO

import httpx
import msgspec
import stamina

from helios_core.client.errors import ExportFailed, RequestRefused, should_retry

_CHUNK = 1024 * 1024

_EXPIRED_STATUSES = frozenset({400, 401, 403, 410})
"""How stores respond to an expired URL: S3 with 403, or with 400 if its credentials expired."""


class DownloadedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file on disk."""

    path: Path
    lines: int
    size: int
    """Bytes of NDJSON."""


class Download:
    """
    The download of one file.

    The bytes go to a `.part` file beside the target, in the content coding in which they were
    sent, so that the download can be resumed when the connection breaks (RFC 9110 §14.2,
    §13.1.5). The target appears when it is complete. `renew_url` returns a new URL of the same
    bytes for one that has expired.
    """

    def __init__(
        self,
        url: str,
        target: Path,
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        renew_url: Callable[[str], Awaitable[str]] | None = None,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._url = url
        self._headers = headers
        self._renew_url = renew_url
        self._target = target
        # No downloaded file has a name that begins with a dot, so these names are free.
        self._part = target.with_name(f".{target.name}.part")
        self._plain = target.with_name(f".{target.name}.plain")
        self._on_bytes = on_bytes
        self._received = 0
        self._tag: str | None = None
        self._coding = "identity"

    async def run(self, client: httpx.AsyncClient) -> DownloadedFile:
        """
        Download the file.

        Raises:
            ExportFailed: The server refuses the request, or sends a coding that was not requested.
            httpx.TransportError: The connection failed repeatedly.
        """
        try:
            await self._fetch(client)
            return await asyncio.to_thread(self._finish)
        finally:
            for leftover in (self._part, self._plain):
                leftover.unlink(missing_ok=True)

    @stamina.retry(
        on=should_retry, attempts=8, timeout=None, wait_initial=0.2, wait_jitter=0.2, wait_max=20
    )
    async def _fetch(self, client: httpx.AsyncClient) -> None:
        headers = dict(self._headers) | {
            "Accept": "application/fhir+ndjson, */*;q=0.1",
            "Accept-Encoding": "gzip",
        }
        if self._received and self._tag:
            headers |= {"Range": f"bytes={self._received}-", "If-Range": self._tag}
        async with client.stream("GET", self._url, headers=headers) as response:
            if not response.is_success:
                await response.aread()
                raise await self._refusal(response)
            self._begin(response)
            mode = "ab" if self._received else "wb"
            with await asyncio.to_thread(self._part.open, mode) as file:
                await self._save(response, file)

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
        if response.status_code == httpx.codes.PARTIAL_CONTENT:
            received = response.headers.get("Content-Range", "")
            if not received.startswith(f"bytes {self._received}-"):
                raise ExportFailed(
                    f"{self._target.name}: the server did not resume at byte {self._received}"
                )
            return
        self._restart()
        self._coding = response.headers.get("Content-Encoding", "identity").lower()
        if self._coding not in ("identity", "gzip", "x-gzip"):
            raise ExportFailed(
                f"{self._target.name} was sent in coding {self._coding}; gzip was requested"
            )
        tag = response.headers.get("ETag", "")
        # A weak tag does not promise the same bytes, so the download could not be resumed.
        self._tag = None if tag.startswith("W/") else tag or None

    def _restart(self) -> None:
        self._on_bytes(-self._received)
        self._received = 0
        self._tag = None

    async def _save(self, response: httpx.Response, file: IO[bytes]) -> None:
        buffer = bytearray()
        try:
            async for piece in response.aiter_raw():
                buffer += piece
                self._on_bytes(len(piece))
                if len(buffer) >= _CHUNK:
                    full, buffer = buffer, bytearray()
                    await asyncio.to_thread(self._append, full, file)
        finally:
            # What arrived before the connection broke need not be sent again.
            self._append(buffer, file)

    def _append(self, chunk: bytearray, file: IO[bytes]) -> None:
        file.write(chunk)
        self._received += len(chunk)

    def _finish(self) -> DownloadedFile:
        if self._coding == "identity":
            with self._part.open("rb") as file:
                lines, size = _measure(_read_chunks(file))
            self._part.replace(self._target)
            return DownloadedFile(path=self._target, lines=lines, size=size)
        try:
            with gzip.open(self._part) as compressed, self._plain.open("wb") as plain:
                lines, size = _measure(_copy(compressed, plain))
        except (EOFError, OSError, zlib.error) as error:
            raise ExportFailed(f"{self._target.name} cannot be decompressed: {error}") from error
        self._plain.replace(self._target)
        return DownloadedFile(path=self._target, lines=lines, size=size)


def _read_chunks(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _copy(source: gzip.GzipFile, target: IO[bytes]) -> Iterator[bytes]:
    for chunk in _read_chunks(source):
        target.write(chunk)
        yield chunk


def _measure(chunks: Iterable[bytes]) -> tuple[int, int]:
    """Return the numbers of lines and of bytes; a last line may lack its newline."""
    lines = size = 0
    last = b"\n"
    for chunk in chunks:
        lines += chunk.count(b"\n")
        size += len(chunk)
        last = chunk[-1:]
    return lines + (last != b"\n"), size
