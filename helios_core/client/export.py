"""The client of any Bulk Data server: kick off, poll, download, check the counts, delete."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import stamina

from helios_core.client.downloads import Download
from helios_core.client.errors import (
    ExportFailed,
    raise_for_refusal,
    retry_after,
    should_retry,
    should_retry_unsent,
)
from helios_core.client.file_urls import LatestURLs
from helios_core.client.manifest import PlannedFile, ReceivedManifest, plan_files, read_manifest
from helios_core.model.exports import Level

_FHIR_JSON = "application/fhir+json"
_TIMEOUT = httpx.Timeout(60, connect=10)
_FIRST_WAIT = timedelta(seconds=1)
_MAX_WAIT = timedelta(seconds=30)
_DELETE_SECONDS = 10.0


class ClientRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to export, and from which server (Bulk Data 2.0.0, Bulk Data Kick-off Request)."""

    base_url: str
    level: Level = Level.SYSTEM
    group_id: str | None = None
    types: Sequence[str] = ()
    """Resource types; empty for all."""
    since: str | None = None
    until: str | None = None
    headers: Mapping[str, str] = {}
    """Headers of every request to the server itself, for example X-Tenant-ID."""

    @property
    def url(self) -> str:
        """The kick-off URL without its query."""
        folders = {Level.SYSTEM: "", Level.PATIENT: "Patient/"}
        folder = folders.get(self.level, f"Group/{self.group_id}/")
        return f"{self.base_url.rstrip('/')}/{folder}$export"

    @property
    def parameters(self) -> dict[str, Any]:
        """The kick-off parameters as a FHIR resource, one parameter for each type."""
        named = [("_type", name) for name in self.types]
        named += [("_since", self.since or ""), ("_until", self.until or "")]
        entries = [{"name": name, "valueString": value} for name, value in named if value]
        return {"resourceType": "Parameters", "parameter": entries}

    @property
    def query(self) -> dict[str, str]:
        """The kick-off parameters as a query."""
        named = {"_type": ",".join(self.types), "_since": self.since, "_until": self.until}
        return {name: value for name, value in named.items() if value}


class ExportPhase(StrEnum):
    """What the client is doing."""

    STARTING = "starting"
    EXPORTING = "exporting"
    DOWNLOADING = "downloading"
    DONE = "done"


class ExportProgress(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of an export and its download."""

    phase: ExportPhase
    message: str = ""
    """The server's X-Progress header."""
    files_done: int = 0
    files_total: int = 0
    lines_done: int = 0
    lines_total: int = 0
    """The sum of the counts in the manifest; 0 if it has none."""
    bytes_received: int = 0
    """Bytes received, compressed if the server compresses them."""


class ExportedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One downloaded file."""

    kind: str
    """`output`, `deleted` or `error`."""
    type: str
    path: Path
    lines: int
    size: int


class ExportSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an export; every count in the manifest has been checked."""

    status_url: str
    transaction_time: str
    manifest: bytes
    """The manifest as it was sent."""
    files: tuple[ExportedFile, ...]
    deleted: bool
    """Whether the server confirmed that it deleted the export."""
    seconds: float

    @property
    def lines(self) -> int:
        """The number of resources in the output files."""
        return sum(file.lines for file in self.files if file.kind == "output")


async def export(
    request: ClientRequest,
    folder: Path,
    *,
    parallel: int = 5,
    on_progress: Callable[[ExportProgress], None] = lambda _: None,
) -> ExportSummary:
    """
    Export, download all files into `folder`, check the counts, and delete the export.

    The export is deleted on the server whether the download succeeds, fails or is cancelled.

    Raises:
        ExportFailed: The server refused or failed the export or cannot be reached, a file does
            not have as many lines as the manifest says, or `folder` cannot be written to.
    """
    if not request.base_url.startswith(("http://", "https://")):
        raise ExportFailed(f"{request.base_url!r} is not an http or https address")
    async with httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=True) as client:
        try:
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            return await _Export(request, client, parallel, on_progress=on_progress).run(folder)
        except httpx.TransportError as error:
            reason = f"{type(error).__name__} {error}".strip()
            raise ExportFailed(f"{request.base_url} cannot be reached: {reason}") from error
        except OSError as error:
            raise ExportFailed(f"{folder} cannot be written to: {error}") from error


class _Export:
    """One export, from kick-off to DELETE."""

    def __init__(
        self,
        request: ClientRequest,
        client: httpx.AsyncClient,
        parallel: int,
        *,
        on_progress: Callable[[ExportProgress], None],
    ) -> None:
        self._request = request
        self._client = client
        self._slots = asyncio.Semaphore(parallel)
        self._on_progress = on_progress
        self._progress = ExportProgress(phase=ExportPhase.STARTING)
        self._deleted = False

    async def run(self, folder: Path) -> ExportSummary:
        started = time.monotonic()
        self._report()
        async with self._job() as status_url:
            sent = await self._wait_for_manifest(status_url)
            manifest = read_manifest(sent)
            await asyncio.to_thread((folder / "manifest.json").write_bytes, sent)
            urls = LatestURLs(self._request.base_url, partial(self._wait_for_manifest, status_url))
            files = await self._download_all(manifest, urls, folder)
        self._report(phase=ExportPhase.DONE)
        return ExportSummary(
            status_url=status_url,
            transaction_time=manifest.transaction_time,
            manifest=sent,
            files=tuple(files),
            deleted=self._deleted,
            seconds=time.monotonic() - started,
        )

    @asynccontextmanager
    async def _job(self) -> AsyncIterator[str]:
        status_url = await self._kick_off()
        try:
            yield status_url
        finally:
            await self._delete(status_url)

    @stamina.retry(
        on=should_retry_unsent, attempts=5, timeout=None, wait_initial=0.2, wait_jitter=0.2
    )
    async def _kick_off(self) -> str:
        headers = {"Accept": _FHIR_JSON, "Prefer": "respond-async"} | dict(self._request.headers)
        response = await self._client.get(
            self._request.url, params=self._request.query, headers=headers
        )
        if response.status_code == httpx.codes.METHOD_NOT_ALLOWED:
            # Servers of version 4 of the guide need not support GET.
            response = await self._client.post(
                self._request.url, json=self._request.parameters, headers=headers
            )
        raise_for_refusal(response)
        location = response.headers.get("Content-Location")
        if response.status_code != httpx.codes.ACCEPTED or not location:
            raise ExportFailed(
                f"the kick-off returned {response.status_code} with "
                f"{'a' if location else 'no'} Content-Location; expected was 202 with one"
            )
        return str(response.url.join(location))

    async def _wait_for_manifest(self, status_url: str) -> bytes:
        """Poll until the export is complete, as often as the server asks for."""
        wait = _FIRST_WAIT
        while True:
            response = await self._poll(status_url)
            if response.status_code != httpx.codes.ACCEPTED:
                return response.content
            self._report(
                phase=ExportPhase.EXPORTING, message=response.headers.get("X-Progress", "")
            )
            requested = retry_after(response)
            await asyncio.sleep((wait if requested is None else requested).total_seconds())
            wait = min(wait * 2, _MAX_WAIT)

    @stamina.retry(
        on=should_retry, attempts=8, timeout=None, wait_initial=0.2, wait_jitter=0.2, wait_max=20
    )
    async def _poll(self, status_url: str) -> httpx.Response:
        headers = {"Accept": "application/json"} | dict(self._request.headers)
        response = await self._client.get(status_url, headers=headers)
        raise_for_refusal(response)
        return response

    async def _download_all(
        self, manifest: ReceivedManifest, urls: LatestURLs, folder: Path
    ) -> list[ExportedFile]:
        planned = plan_files(manifest, folder)
        self._report(
            phase=ExportPhase.DOWNLOADING,
            files_total=len(planned),
            lines_total=sum(file.entry.count or 0 for file in planned),
        )
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._download(file, manifest, urls)) for file in planned
                ]
        except ExceptionGroup as failures:
            # One reason is enough: the first failure cancelled the other downloads.
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _download(
        self, file: PlannedFile, manifest: ReceivedManifest, urls: LatestURLs
    ) -> ExportedFile:
        url = httpx.URL(self._request.base_url).join(file.entry.url)
        # Another host, whose URLs are signed, must not receive headers meant for the server.
        trusted = manifest.requires_access_token or _origin(url) == _origin(self._request.base_url)
        headers = dict(self._request.headers) if trusted else {}
        async with self._slots:
            download = Download(
                urls.latest(str(url)),
                file.path,
                headers=headers,
                renew_url=urls.renew,
                on_bytes=self._report_bytes,
            )
            downloaded = await download.run(self._client)
        if file.entry.count not in (None, downloaded.lines):
            raise ExportFailed(
                f"{file.path.name} has {downloaded.lines} lines; "
                f"the manifest says {file.entry.count}"
            )
        self._report(
            files_done=self._progress.files_done + 1,
            lines_done=self._progress.lines_done + downloaded.lines,
        )
        return ExportedFile(
            kind=file.kind,
            type=file.entry.type,
            path=downloaded.path,
            lines=downloaded.lines,
            size=downloaded.size,
        )

    async def _delete(self, status_url: str) -> None:
        with contextlib.suppress(httpx.TransportError, TimeoutError):
            async with asyncio.timeout(_DELETE_SECONDS):
                headers = {"Accept": _FHIR_JSON} | dict(self._request.headers)
                response = await self._client.delete(status_url, headers=headers)
                self._deleted = response.is_success

    def _report_bytes(self, count: int) -> None:
        self._report(bytes_received=self._progress.bytes_received + count)

    def _report(self, **changes: Any) -> None:  # noqa: ANN401  the fields of ExportProgress
        self._progress = msgspec.structs.replace(self._progress, **changes)
        self._on_progress(self._progress)


def _origin(url: httpx.URL | str) -> tuple[str, str, int | None]:
    parsed = httpx.URL(url)
    return parsed.scheme, parsed.host, parsed.port
