"""Download one file of an export: resumed where it broke off, unpacked, its lines counted."""

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

_LAPSED = frozenset({400, 401, 403, 410})
"""What stores answer to a link that has expired: S3 403, or 400 where its credentials have."""


class DownloadedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file as it lies on disk."""

    path: Path
    lines: int
    size: int
    """Bytes of NDJSON."""


class Download:
    """
    One file on its way.

    What arrives goes to a `.part` file beside the target, in the coding it was sent in, so that a
    broken connection is taken up where it broke (RFC 9110 §14.2, §13.1.5). The target appears
    when it is whole. `renewed` gives a fresh link for one that is refused, and that for the same
    bytes.
    """

    def __init__(
        self,
        url: str,
        target: Path,
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        renewed: Callable[[str], Awaitable[str]] | None = None,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._url = url
        self._headers = headers
        self._renewed = renewed
        self._target = target
        # No downloaded file has a name that begins with a dot, so that these are nobody's.
        self._part = target.with_name(f".{target.name}.part")
        self._plain = target.with_name(f".{target.name}.plain")
        self._on_bytes = on_bytes
        self._received = 0
        self._tag: str | None = None
        self._coding = "identity"

    async def run(self, client: httpx.AsyncClient) -> DownloadedFile:
        """
        Fetch the file.

        Raises:
            ExportFailed: The server refuses it, or sends it in a coding nobody asked for.
            httpx.TransportError: The connection broke again and again.
        """
        try:
            await self._fetch(client)
            return await asyncio.to_thread(self._unpack)
        finally:
            for leftover in (self._part, self._plain):
                leftover.unlink(missing_ok=True)

    @stamina.retry(
        on=should_retry, attempts=8, timeout=None, wait_initial=0.2, wait_jitter=0.2, wait_max=20
    )
    async def _fetch(self, client: httpx.AsyncClient) -> None:
        asked = dict(self._headers) | {
            "Accept": "application/fhir+ndjson, */*;q=0.1",
            "Accept-Encoding": "gzip",
        }
        if self._received and self._tag:
            asked |= {"Range": f"bytes={self._received}-", "If-Range": self._tag}
        async with client.stream("GET", self._url, headers=asked) as response:
            if not response.is_success:
                await response.aread()
                raise await self._refusal(response)
            self._begin(response)
            mode = "ab" if self._received else "wb"
            with await asyncio.to_thread(self._part.open, mode) as file:
                await self._take(response, file)

    async def _refusal(self, response: httpx.Response) -> RequestRefused:
        refused = RequestRefused(response)
        if refused.status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            self._forget()
            refused.passing = True
        if refused.status in _LAPSED and "?" in self._url and self._renewed is not None:
            expired, self._url = self._url, await self._renewed(self._url)
            refused.passing = self._url != expired
        return refused

    def _begin(self, response: httpx.Response) -> None:
        if response.status_code == httpx.codes.PARTIAL_CONTENT:
            span = response.headers.get("Content-Range", "")
            if not span.startswith(f"bytes {self._received}-"):
                raise ExportFailed(f"{self._target.name}: asked was from byte {self._received} on")
            return
        self._forget()
        self._coding = response.headers.get("Content-Encoding", "identity").lower()
        if self._coding not in ("identity", "gzip", "x-gzip"):
            raise ExportFailed(
                f"{self._target.name} came in coding {self._coding}, asked was gzip"
            )
        tag = response.headers.get("ETag", "")
        # A weak tag does not promise the same bytes, so that nothing could be appended.
        self._tag = None if tag.startswith("W/") else tag or None

    def _forget(self) -> None:
        self._on_bytes(-self._received)
        self._received = 0
        self._tag = None

    async def _take(self, response: httpx.Response, file: IO[bytes]) -> None:
        waiting = bytearray()
        try:
            async for piece in response.aiter_raw():
                waiting += piece
                self._on_bytes(len(piece))
                if len(waiting) >= _CHUNK:
                    full, waiting = waiting, bytearray()
                    await asyncio.to_thread(self._keep, full, file)
        finally:
            # What came before the line broke need not come again.
            self._keep(waiting, file)

    def _keep(self, chunk: bytearray, file: IO[bytes]) -> None:
        file.write(chunk)
        self._received += len(chunk)

    def _unpack(self) -> DownloadedFile:
        if self._coding == "identity":
            with self._part.open("rb") as file:
                lines, size = _measure(_chunks(file))
            self._part.replace(self._target)
            return DownloadedFile(path=self._target, lines=lines, size=size)
        try:
            with gzip.open(self._part) as packed, self._plain.open("wb") as plain:
                lines, size = _measure(_copied(packed, plain))
        except (EOFError, OSError, zlib.error) as error:
            raise ExportFailed(f"{self._target.name} cannot be unpacked: {error}") from error
        self._plain.replace(self._target)
        return DownloadedFile(path=self._target, lines=lines, size=size)


def _chunks(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _copied(source: gzip.GzipFile, target: IO[bytes]) -> Iterator[bytes]:
    for chunk in _chunks(source):
        target.write(chunk)
        yield chunk


def _measure(chunks: Iterable[bytes]) -> tuple[int, int]:
    lines = size = 0
    last = b"\n"
    for chunk in chunks:
        lines += chunk.count(b"\n")
        size += len(chunk)
        last = chunk[-1:]
    return lines + (last != b"\n"), size
