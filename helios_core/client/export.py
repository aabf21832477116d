"""A client of any Bulk Data server: kick off, wait, download, verify, delete."""

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
from helios_core.client.file_urls import FileURLs
from helios_core.client.manifest import PlannedFile, ReceivedManifest, plan_files, read_manifest
from helios_core.model.exports import Level

_FHIR_JSON = "application/fhir+json"
_TIMEOUT = httpx.Timeout(60, connect=10)
_FIRST_WAIT = timedelta(seconds=1)
_LONGEST_WAIT = timedelta(seconds=30)
_PATIENCE_AT_THE_END = 10.0


class ClientRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to export from where (Bulk Data 2.0.0, Bulk Data Kick-off Request)."""

    base_url: str
    level: Level = Level.SYSTEM
    group_id: str | None = None
    types: Sequence[str] = ()
    """Resource types, empty for all of them."""
    since: str | None = None
    until: str | None = None
    headers: Mapping[str, str] = {}
    """Headers for every request to the server itself, for example of its tenant."""

    @property
    def url(self) -> str:
        """The kick-off address, without the query."""
        folders = {Level.SYSTEM: "", Level.PATIENT: "Patient/"}
        folder = folders.get(self.level, f"Group/{self.group_id}/")
        return f"{self.base_url.rstrip('/')}/{folder}$export"

    @property
    def parameters(self) -> dict[str, Any]:
        """The kick-off parameters as a resource, without lists joined by commas."""
        named = [("_type", name) for name in self.types]
        named += [("_since", self.since or ""), ("_until", self.until or "")]
        entries = [{"name": name, "valueString": value} for name, value in named if value]
        return {"resourceType": "Parameters", "parameter": entries}

    @property
    def query(self) -> dict[str, str]:
        """The kick-off parameters."""
        named = {"_type": ",".join(self.types), "_since": self.since, "_until": self.until}
        return {name: value for name, value in named.items() if value}


class ExportPhase(StrEnum):
    """What a client is doing."""

    STARTING = "starting"
    EXPORTING = "exporting"
    DOWNLOADING = "downloading"
    DONE = "done"


class ExportProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far an export and its download are."""

    phase: ExportPhase
    message: str = ""
    """What the server says in X-Progress."""
    files_done: int = 0
    files_total: int = 0
    lines_done: int = 0
    lines_total: int = 0
    """The sum of the manifest's counts, 0 where it has none."""
    bytes_received: int = 0
    """Bytes over the wire, after compression."""


class ExportedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One downloaded file."""

    kind: str
    """`output`, `deleted` or `error`."""
    type: str
    path: Path
    lines: int
    size: int


class ExportSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What an export gave; every count of the manifest has been checked."""

    status_url: str
    transaction_time: str
    manifest: bytes
    """The manifest as it was sent."""
    files: tuple[ExportedFile, ...]
    deleted: bool
    """Whether the server has forgotten the export, as it was asked to."""
    seconds: float

    @property
    def lines(self) -> int:
        """How many resources there are in the output files."""
        return sum(file.lines for file in self.files if file.kind == "output")


async def export(
    order: ClientRequest,
    folder: Path,
    *,
    parallel: int = 5,
    on_progress: Callable[[ExportProgress], None] = lambda _: None,
) -> ExportSummary:
    """
    Export, download everything into `folder`, verify the counts, and delete the export.

    The export is deleted on the server whether the download succeeds, fails or is cancelled.

    Raises:
        ExportFailed: The server refused or failed the export, cannot be reached, or a file does
            not hold what the manifest announced.
    """
    if not order.base_url.startswith(("http://", "https://")):
        raise ExportFailed(f"{order.base_url!r} is not an http or https address")
    async with httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=True) as client:
        try:
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            return await _Export(order, client, parallel, on_progress=on_progress).run(folder)
        except httpx.TransportError as error:
            reason = f"{type(error).__name__} {error}".strip()
            raise ExportFailed(f"{order.base_url} cannot be reached: {reason}") from error
        except OSError as error:
            raise ExportFailed(f"{folder} cannot be written to: {error}") from error


class _Export:
    """One export from kick-off to DELETE."""

    def __init__(
        self,
        order: ClientRequest,
        client: httpx.AsyncClient,
        parallel: int,
        *,
        on_progress: Callable[[ExportProgress], None],
    ) -> None:
        self._order = order
        self._client = client
        self._slots = asyncio.Semaphore(parallel)
        self._on_progress = on_progress
        self._progress = ExportProgress(phase=ExportPhase.STARTING)
        self._deleted = False

    async def run(self, folder: Path) -> ExportSummary:
        started = time.monotonic()
        self._tell()
        async with self._job() as status_url:
            sent = await self._finished(status_url)
            manifest = read_manifest(sent)
            await asyncio.to_thread((folder / "manifest.json").write_bytes, sent)
            links = FileURLs(self._order.base_url, partial(self._finished, status_url))
            files = await self._files(manifest, links, folder)
        self._tell(phase=ExportPhase.DONE)
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
        headers = {"Accept": _FHIR_JSON, "Prefer": "respond-async"} | dict(self._order.headers)
        response = await self._client.get(
            self._order.url, params=self._order.query, headers=headers
        )
        if response.status_code == httpx.codes.METHOD_NOT_ALLOWED:
            # Servers of version 4 of the guide take no GET.
            response = await self._client.post(
                self._order.url, json=self._order.parameters, headers=headers
            )
        raise_for_refusal(response)
        location = response.headers.get("Content-Location")
        if response.status_code != httpx.codes.ACCEPTED or not location:
            raise ExportFailed(
                f"the kick-off was answered with {response.status_code} and "
                f"{'a' if location else 'no'} Content-Location; 202 and one were expected"
            )
        return str(response.url.join(location))

    async def _finished(self, status_url: str) -> bytes:
        """Poll until the manifest is there, as often as the server wants."""
        wait = _FIRST_WAIT
        while True:
            response = await self._poll(status_url)
            if response.status_code != httpx.codes.ACCEPTED:
                return response.content
            self._tell(phase=ExportPhase.EXPORTING, message=response.headers.get("X-Progress", ""))
            asked = retry_after(response)
            await asyncio.sleep((wait if asked is None else asked).total_seconds())
            wait = min(wait * 2, _LONGEST_WAIT)

    @stamina.retry(
        on=should_retry, attempts=8, timeout=None, wait_initial=0.2, wait_jitter=0.2, wait_max=20
    )
    async def _poll(self, status_url: str) -> httpx.Response:
        headers = {"Accept": "application/json"} | dict(self._order.headers)
        response = await self._client.get(status_url, headers=headers)
        raise_for_refusal(response)
        return response

    async def _files(
        self, manifest: ReceivedManifest, links: FileURLs, folder: Path
    ) -> list[ExportedFile]:
        wanted = plan_files(manifest, folder)
        self._tell(
            phase=ExportPhase.DOWNLOADING,
            files_total=len(wanted),
            lines_total=sum(file.entry.count or 0 for file in wanted),
        )
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._file(file, manifest, links)) for file in wanted]
        except ExceptionGroup as failures:
            # One reason is enough: whatever else failed did so at the same time.
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _file(
        self, wanted: PlannedFile, manifest: ReceivedManifest, links: FileURLs
    ) -> ExportedFile:
        url = httpx.URL(self._order.base_url).join(wanted.entry.url)
        # A signed URL of another host must not see what was meant for the server.
        trusted = manifest.requires_access_token or _origin(url) == _origin(self._order.base_url)
        headers = dict(self._order.headers) if trusted else {}
        async with self._slots:
            download = Download(
                links.newest(str(url)),
                wanted.path,
                headers=headers,
                renewed=links.renewed,
                on_bytes=self._received,
            )
            got = await download.run(self._client)
        if wanted.entry.count not in (None, got.lines):
            raise ExportFailed(
                f"{wanted.path.name} holds {got.lines} lines; "
                f"the manifest announced {wanted.entry.count}"
            )
        self._tell(
            files_done=self._progress.files_done + 1,
            lines_done=self._progress.lines_done + got.lines,
        )
        return ExportedFile(
            kind=wanted.kind,
            type=wanted.entry.type,
            path=got.path,
            lines=got.lines,
            size=got.size,
        )

    async def _delete(self, status_url: str) -> None:
        with contextlib.suppress(httpx.TransportError, TimeoutError):
            async with asyncio.timeout(_PATIENCE_AT_THE_END):
                headers = {"Accept": _FHIR_JSON} | dict(self._order.headers)
                response = await self._client.delete(status_url, headers=headers)
                self._deleted = response.is_success

    def _received(self, count: int) -> None:
        self._tell(bytes_received=self._progress.bytes_received + count)

    def _tell(self, **changes: Any) -> None:  # noqa: ANN401  the fields of Progress
        self._progress = msgspec.structs.replace(self._progress, **changes)
        self._on_progress(self._progress)


def _origin(url: httpx.URL | str) -> tuple[str, str, int | None]:
    parsed = httpx.URL(url)
    return parsed.scheme, parsed.host, parsed.port
