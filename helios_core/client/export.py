"""Export from any Bulk Data server: kick off, poll, download, check, delete, and resume."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import msgspec
from msgspec.structs import replace

from helios_core.client.credentials import Credentials
from helios_core.client.downloads import Download
from helios_core.client.errors import (
    ExportFailed,
    ExportGone,
    RequestRefused,
    ServerUnreachable,
    retry_after,
    should_retry_unsent,
)
from helios_core.client.file_urls import LatestURLs
from helios_core.client.kickoff import ClientRequest, read_url
from helios_core.client.manifest import (
    MANIFEST_NAME,
    PlannedFile,
    ReceivedManifest,
    is_reference,
    join_pages,
    plan_files,
    read_manifest,
)
from helios_core.client.reported import Report, read_report
from helios_core.client.session import Session
from helios_core.client.state import (
    ExportFolder,
    ExportState,
    FileCompression,
    needs_headers,
    write_atomically,
)
from helios_core.client.verification import (
    ProofUnreadable,
    Verdict,
    VerificationReport,
    find_file,
    verify_if_proven,
)
from helios_core.errors import ConfigurationError, HeliosError

TENANT_HEADER = "X-Tenant-ID"
_FHIR_JSON = "application/fhir+json"
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_FIRST_WAIT = timedelta(seconds=1)
_MAX_WAIT = timedelta(seconds=30)
_DELETE_SECONDS = 10.0
_GET_REFUSED = frozenset({httpx.codes.METHOD_NOT_ALLOWED, httpx.codes.REQUEST_URI_TOO_LONG})
_GONE = frozenset({httpx.codes.NOT_FOUND, httpx.codes.GONE})


class ExportPhase(StrEnum):
    """What the client is doing."""

    STARTING = "starting"
    EXPORTING = "exporting"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    DONE = "done"


class ExportProgress(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of an export and its download."""

    phase: ExportPhase
    status_url: str = ""
    """Empty until the server has accepted the export."""
    message: str = ""
    """The server's X-Progress header."""
    fraction: float | None = None
    """How much of this phase is done, from 0 to 1, or None if it is unknown."""
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
    """`output`, `deleted`, `error` or, from version 4 on, `outcome`."""
    type: str
    path: Path
    lines: int
    size: int
    counted: bool
    """Whether the manifest announces the number of its lines."""


class ExportSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an export; every count in the manifest has been checked."""

    status_url: str
    transaction_time: str
    manifest: bytes
    """The manifest as it was sent; if it came in pages, one for all of them."""
    files: tuple[ExportedFile, ...]
    report: Report
    verification: VerificationReport | None
    """None if the server sent no proof of completeness, or one that cannot be read."""
    proof_problem: str = ""
    """Why a proof that the server sent cannot be used; empty if there is no such problem."""
    deleted: bool
    """Whether the server confirmed that it deleted the export."""
    seconds: float

    @property
    def lines(self) -> int:
        """The number of resources in the output files."""
        return sum(file.lines for file in self.files if file.kind == "output")

    @property
    def is_empty(self) -> bool:
        """Whether the export has neither resources nor deletions."""
        return not any(file.lines for file in self.files if file.kind in ("output", "deleted"))

    @property
    def is_intact(self) -> bool:
        """Whether the files are what the server wrote, as far as its proof shows."""
        return self.verification is None or self.verification.ok

    @property
    def is_complete(self) -> bool:
        """Whether the files are intact, the proof is usable, and no loss is reported."""
        return self.is_intact and not self.proof_problem and not self.report.loss_count


class ExportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to export: options that do not depend on what is exported."""

    credentials: Credentials | None = None
    compression: FileCompression = FileCompression.NONE
    parallel: int = 5
    """How many files are downloaded at a time."""
    on_progress: Callable[[ExportProgress], None] = lambda _: None
    stopping: Event = msgspec.field(default_factory=Event)
    """When set, threads that read or write files end soon."""


async def export(
    request: ClientRequest, folder: Path, options: ExportOptions | None = None
) -> ExportSummary:
    """
    Export, download all files into `folder`, check them, and delete the export on the server.

    If this ends early, for whatever reason, the export stays on the server and `resume` continues
    it, unless the server itself reports that it failed.

    Raises:
        ConfigurationError: `folder` is not empty, or the address in the request is invalid.
        ExportFailed: The server refused or failed the export or cannot be reached, a file does
            not have as many lines as the manifest says, or `folder` cannot be written to.
    """
    options = options or ExportOptions()
    read_url(request.base_url)
    kept = {n: v for n, v in request.headers.items() if n.lower() == TENANT_HEADER.lower()}
    state = ExportState(
        request=replace(request, headers=kept),
        header_names=tuple(name for name in request.headers if name not in kept),
        credentials=options.credentials.origin if options.credentials else {},
        compression=options.compression,
    )
    with _explained_errors(folder), ExportFolder.create(folder, state) as opened:
        return await _run(opened, state, request, options)


async def resume(
    folder: Path, headers: Mapping[str, str], options: ExportOptions | None = None
) -> ExportSummary:
    """
    Continue the unfinished export in `folder`, as `export` does.

    `headers` has the headers that are not stored in the folder. The compression is the one that
    the export was started with.

    Raises:
        ConfigurationError: There is no unfinished export, or a header is missing.
        ExportFailed: As in `export`.
    """
    options = options or ExportOptions()
    with _explained_errors(folder), ExportFolder.reopen(folder) as (opened, state):
        request = _again(state, headers)
        options = replace(options, compression=state.compression)
        return await _run(opened, state, request, options)


async def discard(
    folder: Path, headers: Mapping[str, str], credentials: Credentials | None = None
) -> bool:
    """
    Delete the unfinished export of `folder` on the server, and its state in the folder.

    Files that are complete stay. Return whether there was an export on the server.

    Raises:
        ConfigurationError: As in `resume`.
        ExportFailed: The server cannot be reached or refuses; nothing was removed.
    """
    with _explained_errors(folder), ExportFolder.reopen(folder) as (opened, state):
        request, deleted = _again(state, headers), False
        if state.status_url is not None:
            async with Session.open(request.base_url, request.headers, credentials) as session:
                session.trust(state.status_url)
                try:
                    await session.request(
                        "DELETE", state.status_url, headers={"Accept": _FHIR_JSON}, attempts=3
                    )
                    deleted = True
                except RequestRefused as error:
                    if error.status not in _GONE:
                        raise
        opened.close()
    return deleted


def _again(state: ExportState, headers: Mapping[str, str]) -> ClientRequest:
    """Return the request of an unfinished export, complete with `headers`."""
    if missing := needs_headers(state, headers):
        names = " ".join(f"--header '{name}: …'" for name in missing)
        raise ConfigurationError(
            f"headers are not stored, because they may be secret; send them again: {names}"
        )
    return replace(state.request, headers={**state.request.headers, **headers})


async def _run(
    folder: ExportFolder, state: ExportState, request: ClientRequest, options: ExportOptions
) -> ExportSummary:
    started = time.monotonic()
    headers = {n: v for n, v in request.headers.items() if n.lower() != "prefer"}
    async with Session.open(request.base_url, headers, options.credentials) as session:
        return await _Export(folder, state, request, session, options).run(started)


@contextmanager
def _explained_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportFailed(
            f"{error.filename or folder} cannot be written to: {error.strerror or error}"
        ) from error
    except httpx.HTTPError as error:
        host = error.request.url.netloc.decode()
        raise ExportFailed(f"{host} cannot be used: {type(error).__name__} {error}") from error
    except (httpx.InvalidURL, UnicodeError) as error:  # httpx raises both for names of hosts
        raise ExportFailed(f"the server sent an invalid URL: {error}") from error


class _Export:
    """One export, from the kick-off, or the point of its interruption, to the DELETE."""

    def __init__(
        self,
        folder: ExportFolder,
        state: ExportState,
        request: ClientRequest,
        session: Session,
        options: ExportOptions,
    ) -> None:
        self._folder = folder
        self._state = state
        self._request = request
        self._session = session
        self._options = options
        self._slots = asyncio.Semaphore(options.parallel)
        self._progress = ExportProgress(phase=ExportPhase.STARTING)
        self._active = dict[str, tuple[Download, int]]()

    async def run(self, started: float) -> ExportSummary:
        self._report(status_url=self._state.status_url or "")
        status_url = self._state.status_url or await self._start()
        self._session.trust(status_url)
        self._report(status_url=status_url)
        sent = await self._manifest(status_url)
        manifest = read_manifest(sent)
        await asyncio.to_thread(self._drop_damaged, sent)
        files = await self._download_all(manifest, status_url)
        self._report(phase=ExportPhase.VERIFYING, fraction=None)
        verification, problem = await asyncio.to_thread(self._verify, sent)
        outcomes = [file.path for file in files if file.kind in ("error", "outcome")]
        summary = ExportSummary(
            status_url=status_url,
            transaction_time=manifest.transaction_time,
            manifest=sent,
            files=tuple(files),
            report=await asyncio.to_thread(read_report, outcomes),
            verification=verification,
            proof_problem=problem,
            deleted=False,
            seconds=0,
        )
        # An export whose files are damaged stays, so that they can be downloaded again.
        if summary.is_intact:
            deleted = await self._delete(status_url)
            await asyncio.to_thread(self._folder.close)
            summary = replace(summary, deleted=deleted)
        self._report(phase=ExportPhase.DONE, fraction=1)
        return replace(summary, seconds=time.monotonic() - started)

    async def _start(self) -> str:
        try:
            status_url = await self._kick_off()
        except HeliosError:
            # Nothing was started, so there is nothing to resume.
            await asyncio.to_thread(self._folder.close)
            raise
        self._state = replace(self._state, status_url=status_url)
        await asyncio.to_thread(self._folder.save, self._state)
        return status_url

    async def _kick_off(self) -> str:
        preferences = [v for n, v in self._request.headers.items() if n.lower() == "prefer"]
        headers = {"Accept": _FHIR_JSON, "Prefer": ", ".join(["respond-async", *preferences])}
        send = partial(
            self._session.request, headers=headers, attempts=5, retry=should_retry_unsent
        )
        post = partial(send, "POST", self._request.url, json=self._request.parameters)
        try:
            get = partial(send, "GET", self._request.get_url)
            response = await (post if self._request.needs_post else get)()
        except RequestRefused as refused:
            # Servers of version 4 of the guide need not support GET.
            if self._request.needs_post or refused.status not in _GET_REFUSED:
                raise
            response = await post()
        location = response.headers.get("Content-Location")
        if response.status_code != httpx.codes.ACCEPTED or not is_reference(location or "ftp:"):
            raise ExportFailed(
                f"the kick-off returned {response.status_code} with "
                f"{'a' if location else 'no'} Content-Location; 202 with a URL was expected"
            )
        return str(response.url.join(location))

    async def _manifest(self, status_url: str) -> bytes:
        """Return the manifest, from the folder if an earlier process has stored it."""
        path = self._folder.path / MANIFEST_NAME
        if await asyncio.to_thread(path.is_file):
            return await asyncio.to_thread(path.read_bytes)
        sent = await self._wait_for_manifest(status_url)
        await asyncio.to_thread(write_atomically, path, sent)
        return sent

    async def _wait_for_manifest(self, status_url: str) -> bytes:
        """Poll until the export is complete, as often as `Retry-After` says."""
        wait = _FIRST_WAIT
        while True:
            response = await self._poll(status_url)
            if response.status_code != httpx.codes.ACCEPTED:
                return await self._all_pages(response)
            message = response.headers.get("X-Progress", "")
            percent = _PERCENT.search(message)
            self._report(
                phase=ExportPhase.EXPORTING,
                message=message,
                fraction=min(float(percent[1]) / 100, 1) if percent else None,
            )
            requested = retry_after(response)
            await asyncio.sleep((wait if requested is None else requested).total_seconds())
            wait = min(wait * 2, _MAX_WAIT)

    async def _all_pages(self, response: httpx.Response) -> bytes:
        """Return the manifest; if it comes in pages, follow their links and join them."""
        pages, seen = [response.content], set[str]()
        while (link := read_manifest(pages[-1]).next_url) is not None:
            url = str(response.url.join(link)) if is_reference(link) else ""
            if not url or url in seen:
                raise ExportFailed(
                    "the server's manifest links to a next page by a URL that is invalid or was "
                    "read before"
                )
            seen.add(url)
            pages.append((await self._poll(url)).content)
        return join_pages(pages)

    async def _poll(self, status_url: str) -> httpx.Response:
        try:
            return await self._session.request(
                "GET", status_url, headers={"Accept": "application/json"}
            )
        except RequestRefused as refused:
            if refused.status >= httpx.codes.INTERNAL_SERVER_ERROR and refused.has_outcome:
                # The export has failed for good and cannot be resumed.
                await self._delete(status_url)
                await asyncio.to_thread(self._folder.close)
            if refused.status in _GONE:
                raise ExportGone(refused) from refused
            raise

    async def _download_all(
        self, manifest: ReceivedManifest, status_url: str
    ) -> list[ExportedFile]:
        planned = plan_files(manifest, self._folder.path)
        organized = manifest.output_organized_by is not None
        urls = LatestURLs(self._request.base_url, partial(self._wait_for_manifest, status_url))
        if manifest.requires_access_token:
            for file in planned:
                self._session.trust(self._absolute(file))
        self._report(
            phase=ExportPhase.DOWNLOADING,
            message="",
            fraction=0,
            files_total=len(planned),
            lines_total=sum(file.entry.count or 0 for file in planned),
        )
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._download(file, urls, organized=organized))
                    for file in planned
                ]
        except ExceptionGroup as failures:
            # One reason is enough: the first failure cancelled the other downloads.
            failure = failures.exceptions[0]
            if isinstance(failure, RequestRefused) and failure.status in _GONE:
                await self._require_export(status_url, failure)
            raise failure from None
        return [task.result() for task in tasks]

    async def _require_export(self, status_url: str, refused: RequestRefused) -> None:
        """Raise ExportGone if not only a file, but its whole export is gone."""
        try:
            await self._session.request(
                "GET", status_url, headers={"Accept": "application/json"}, attempts=1
            )
        except RequestRefused as status:
            if status.status in _GONE:
                raise ExportGone(refused) from refused
        except ServerUnreachable:
            pass  # it is unknown whether the export is gone

    async def _download(
        self, file: PlannedFile, urls: LatestURLs, *, organized: bool
    ) -> ExportedFile:
        async with self._slots:
            download = Download(
                urls.latest(self._absolute(file)),
                file.path,
                self._folder,
                compression=self._options.compression,
                count=file.entry.count,
                organized=organized and file.kind == "output",
                renew_url=urls.renew,
                on_bytes=self._report_bytes,
                stopping=self._options.stopping,
            )
            self._active[file.path.name] = download, file.entry.count or 0
            downloaded = await download.run(self._session)
            del self._active[file.path.name]
        self._report(
            files_done=self._progress.files_done + 1,
            lines_done=self._progress.lines_done + downloaded.lines,
        )
        self._report(fraction=self._fraction())
        return ExportedFile(
            kind=file.kind,
            type=file.entry.type,
            path=downloaded.path,
            lines=downloaded.lines,
            size=downloaded.size,
            counted=file.entry.count is not None,
        )

    def _absolute(self, file: PlannedFile) -> str:
        return str(httpx.URL(self._request.base_url).join(file.entry.url))

    def _drop_damaged(self, sent: bytes) -> None:
        """Remove files of an earlier process that disagree with the proof."""
        planned = plan_files(read_manifest(sent), self._folder.path)
        if not planned or any(find_file(file.path) is None for file in planned):
            return
        report, _ = self._verify(sent)
        for finding in report.findings if report else ():
            if finding.verdict is not Verdict.OK:
                for path in finding.paths:
                    path.unlink()

    def _verify(self, sent: bytes) -> tuple[VerificationReport | None, str]:
        try:
            return verify_if_proven(sent, self._folder.path), ""
        except ProofUnreadable as error:
            return None, str(error)

    async def _delete(self, status_url: str) -> bool:
        try:
            async with asyncio.timeout(_DELETE_SECONDS):
                await self._session.request(
                    "DELETE", status_url, headers={"Accept": _FHIR_JSON}, attempts=1
                )
        except (RequestRefused, ServerUnreachable, TimeoutError):
            return False
        return True

    def _fraction(self) -> float | None:
        """Return how much has arrived, by lines if the manifest counts them, else by files."""
        now = self._progress
        if not now.lines_total:
            return now.files_done / now.files_total if now.files_total else None
        arriving = sum(
            count * min(download.received / download.size, 1)
            for download, count in self._active.values()
            if download.size
        )
        return min((now.lines_done + arriving) / now.lines_total, 1)

    def _report_bytes(self, count: int) -> None:
        self._report(
            bytes_received=self._progress.bytes_received + count, fraction=self._fraction()
        )

    def _report(self, **changes: Any) -> None:  # noqa: ANN401  the fields of ExportProgress
        self._progress = replace(self._progress, **changes)
        self._options.on_progress(self._progress)
