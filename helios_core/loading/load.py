"""Load files of resources into a data provider."""

import asyncio
import time
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Sequence,
)
from contextlib import aclosing, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import msgspec
from xxhash import xxh3_64_intdigest

from helios_core.errors import BackendUnavailable, StoreReplaced
from helios_core.fhir.definitions import FHIRVersion
from helios_core.loading.inputs import FoundFiles, find_files
from helios_core.loading.intake import ParsedChunk
from helios_core.loading.link_index import LinkIndex, Match
from helios_core.loading.link_scan import ConditionalSearch, Contest, ScannedChunk, scan
from helios_core.loading.parsers import parse_files
from helios_core.loading.resources import LoadOptions, LoadProblem
from helios_core.storage.data_provider import (
    ChangeResult,
    Delete,
    Put,
    SupportsSearch,
    SupportsWrites,
)

MAX_PROBLEMS = 100
"""Maximum number of bad resources that a summary lists; the others are only counted."""

WRITE_CHANGES = 2000
WRITE_BYTES = 4 * 1024 * 1024
PATIENCE = 600
"""For how many seconds one call is repeated while the store is busy, slow or down."""
PAUSE = 1
"""Seconds between two attempts."""
GRACE = 0.5
"""Seconds for which a write in progress may go on once the load is to stop."""

T = TypeVar("T")


class LoadPhase(StrEnum):
    """What the load is doing."""

    SCANNING = "scanning"
    """Finding the entries of Bundles, to which other resources may refer."""
    SEARCHING = "searching"
    """Finding the resources that conditional references match."""
    LOADING = "loading"
    """Parsing and writing."""
    WAITING = "waiting for the store"
    """Repeating a call while the store is busy, slow or down."""


class LoadProgress(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a load; bytes are counted as on disk, compressed if the file is."""

    phase: LoadPhase
    bytes_done: int
    bytes_total: int
    resources: int
    """Resources read so far, 0 while scanning."""
    reason: str | None = None
    """Why it is waiting."""


class LoadSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a load."""

    files: int
    skipped: int
    """Files in named folders that were skipped because of their names."""
    read: int
    """Resources read, including bad ones."""
    created: int
    updated: int
    unchanged: int
    deleted: int
    bad: int
    problems: tuple[LoadProblem, ...]
    """The first bad resources, at most `MAX_PROBLEMS`."""
    unresolved: int
    """Links to a `urn:` that no loaded Bundle defines, counted once per resource, and kept."""
    unresolved_distinct: int
    """The number of different links among these."""
    unresolved_by_file: tuple[tuple[Path, int], ...]
    """How many of these each file has, in the order of loading."""
    unmatched: int
    """Conditional references that do not match one resource, counted once per resource."""
    unmatched_by_reason: tuple[tuple[Match, int], ...]
    """How many of these match nothing or several resources or are not supported; no zeros."""
    unmatched_by_file: tuple[tuple[Path, int], ...]
    """How many of these each file has, in the order of loading."""
    clashed: int
    """Entries whose fullUrl, or whose id (which is replaced), is also that of another resource."""
    clashes: tuple[LoadProblem, ...]
    """The first of these entries, at most `MAX_PROBLEMS`."""
    interrupted: bool
    """Whether the load was stopped before its end; what was written stays."""
    seconds: float

    @property
    def rate(self) -> float:
        """Resources read per second."""
        return self.read / self.seconds if self.seconds else 0.0

    @property
    def is_good(self) -> bool:
        """Whether everything was loaded, without clashes or unmatched conditional references."""
        return not (self.bad or self.unmatched or self.clashed or self.interrupted)


class _Tally:
    """Counts while a load runs, and reports its progress."""

    def __init__(
        self, files: FoundFiles, on_progress: Callable[[LoadProgress], None] | None
    ) -> None:
        self.outcomes: Counter[ChangeResult] = Counter()
        self.bad = 0
        self._files = files
        self._on_progress = on_progress
        self._started = time.monotonic()
        self._problems: list[LoadProblem] = []
        self._unresolved: Counter[str] = Counter()
        self._distinct: set[int] = set()
        self._unmatched: Counter[str] = Counter()
        self._reasons: Counter[Match] = Counter()
        self._clashes: list[LoadProblem] = []
        self._clashed = 0
        self._bytes_done = 0

    @property
    def _read(self) -> int:
        return self.outcomes.total() + self.bad

    def add(self, changes: ParsedChunk) -> None:
        self.bad += len(changes.problems)
        self._problems += changes.problems[: MAX_PROBLEMS - len(self._problems)]
        for unresolved in changes.unresolved:
            if unresolved.match is None:
                self._unresolved[unresolved.path] += 1
                self._distinct.add(xxh3_64_intdigest(unresolved.link.encode()))
            else:
                self._unmatched[unresolved.path] += 1
                self._reasons[unresolved.match] += 1
        self.report(LoadPhase.LOADING, changes.bytes_done)

    def add_scanned(self, phase: LoadPhase, chunk: ScannedChunk) -> None:
        self._clashed += len(chunk.clashes)
        self._clashes += chunk.clashes[: MAX_PROBLEMS - len(self._clashes)]
        self.report(phase, chunk.bytes_done)

    def forget_clashes(self) -> None:
        self._clashed, self._clashes = 0, []

    def report(self, phase: LoadPhase, bytes_done: int, reason: str | None = None) -> None:
        self._bytes_done = bytes_done
        if self._on_progress is not None:
            progress = LoadProgress(
                phase=phase,
                bytes_done=bytes_done,
                bytes_total=self._files.size,
                resources=self._read,
                reason=reason,
            )
            self._on_progress(progress)

    def report_waiting(self, reason: str) -> None:
        self.report(LoadPhase.WAITING, self._bytes_done, reason)

    def summary(self, *, interrupted: bool) -> LoadSummary:
        return LoadSummary(
            interrupted=interrupted,
            files=len(self._files.paths),
            skipped=self._files.skipped,
            read=self._read,
            created=self.outcomes[ChangeResult.CREATED],
            updated=self.outcomes[ChangeResult.UPDATED],
            unchanged=self.outcomes[ChangeResult.UNCHANGED] + self.outcomes[ChangeResult.ABSENT],
            deleted=self.outcomes[ChangeResult.DELETED],
            bad=self.bad,
            problems=tuple(self._problems),
            unresolved=self._unresolved.total(),
            unresolved_distinct=len(self._distinct),
            unresolved_by_file=_by_file(self._unresolved),
            unmatched=self._unmatched.total(),
            unmatched_by_reason=tuple(
                (match, self._reasons[match]) for match in Match if self._reasons[match]
            ),
            unmatched_by_file=_by_file(self._unmatched),
            clashed=self._clashed,
            clashes=tuple(self._clashes),
            seconds=time.monotonic() - self._started,
        )


def _by_file(counts: Counter[str]) -> tuple[tuple[Path, int], ...]:
    return tuple((Path(path), count) for path, count in counts.items())


async def load(  # noqa: PLR0913 - source, target, options and a callback
    paths: Sequence[Path],
    provider: SupportsWrites,
    *,
    tenant: str,
    fhir_version: FHIRVersion,
    strict: bool = False,
    assign_ids: bool = False,
    stopping: asyncio.Event | None = None,
    on_progress: Callable[[LoadProgress], None] | None = None,
    base_urls: tuple[str, ...] = (),
) -> LoadSummary:
    """
    Load files, and the .json, .ndjson and .jsonl files in folders, plain or gzip.

    A file contains NDJSON, a Bundle or a single resource, which is detected from its content. A
    resource keeps its id; a Bundle entry without one gets an id from its fullUrl, and with
    `assign_ids` every other resource without a valid one gets an id from its content. Loading
    again is an update, and an unchanged resource gets no new version. A bad resource is reported
    and the rest is loaded; with `strict`, loading stops at the first bad one, and what was written
    before stays. A Bundle is not atomic here: its entries are written in chunks with everything
    else. When `stopping` is set, the load ends within a second and returns its summary so far.

    While the data provider is busy, slow or down, a call is repeated for up to `PATIENCE` seconds.
    If the response to a write was lost, the repeated write counts its changes as unchanged.

    Raises:
        BackendUnavailable: The data provider does not respond; what was written before stays, and
            loading again continues.
    """
    files = await asyncio.to_thread(find_files, paths)
    tally = _Tally(files, on_progress)
    options = LoadOptions(
        fhir_version=fhir_version, base_urls=base_urls, strict=strict, assign_ids=assign_ids
    )
    stopping = stopping or asyncio.Event()
    with LinkIndex.temporary() as index:
        running = _Load(files, tally, index, stopping)
        await running.resolve_links(provider, options, tenant)
        options = msgspec.structs.replace(options, index_path=str(index.path))
        await running.write(provider, options, tenant)
    return tally.summary(interrupted=stopping.is_set())


class _Load:
    """The two passes of a load; when `stopping` is set, both end early."""

    def __init__(
        self, files: FoundFiles, tally: _Tally, index: LinkIndex, stopping: asyncio.Event
    ) -> None:
        self._files = files
        self._tally = tally
        self._index = index
        self._stopping = stopping

    async def resolve_links(
        self, provider: SupportsWrites, options: LoadOptions, tenant: str
    ) -> None:
        """Fill the index with the targets of the links between the files."""
        await self._scan(LoadPhase.SCANNING, scan(self._files, options, self._index))
        await self._settle_ids(options)
        if not self._stopping.is_set() and self._index.has_conditionals:
            search = ConditionalSearch(self._index, options)
            await self._scan(LoadPhase.SEARCHING, search.search_files(self._files))
            if isinstance(provider, SupportsSearch):
                await search.search_store(provider, tenant, self._retry)
            self._index.settle_conditions()
        if not self._stopping.is_set():
            self._index.publish()

    async def _settle_ids(self, options: LoadOptions) -> None:
        """Find the resources that must get another id; if there are any, scan the links again."""
        if self._stopping.is_set() or not self._index.may_be_contested:
            return
        contest = Contest(self._index, options)
        await self._scan(LoadPhase.SCANNING, contest.note_named(self._files))
        if not self._stopping.is_set() and self._index.has_contested:
            await self._scan(LoadPhase.SCANNING, contest.settle(self._files))
        if not self._stopping.is_set() and self._index.has_displaced:
            self._index.forget_links()
            self._tally.forget_clashes()
            await self._scan(LoadPhase.SCANNING, scan(self._files, options, self._index))

    async def _scan(self, phase: LoadPhase, items: Generator[ScannedChunk]) -> None:
        async with aclosing(_read_ahead(items, self._stopping)) as chunks:
            async for chunk in chunks:
                self._tally.add_scanned(phase, chunk)

    async def write(self, provider: SupportsWrites, options: LoadOptions, tenant: str) -> None:
        """Parse and write everything."""
        parsed = parse_files(options, self._files)
        async with aclosing(_read_ahead(parsed, self._stopping)) as chunks:
            async for changes in chunks:
                for batch in _batches(changes.changes):
                    write = partial(provider.write, tenant, options.fhir_version, batch)
                    applied = await self._retry(write)
                    if applied is None:
                        return
                    self._tally.outcomes.update(change.outcome for change in applied)
                self._tally.add(changes)
                if options.strict and self._tally.bad:
                    return

    async def _retry(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """
        Return the result of a call, repeated while the store is unavailable; None when stopped.

        A write whose response was lost may be repeated: it changes each resource once, so writing
        the same again changes nothing.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await _finish(call(), self._stopping)
            except StoreReplaced:
                raise
            except BackendUnavailable as error:
                if time.monotonic() >= deadline:
                    raise
                self._tally.report_waiting(str(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), PAUSE)


async def _finish(work: Coroutine[Any, Any, T], stopping: asyncio.Event) -> T | None:
    """Return the result of a coroutine; None if it takes over `GRACE` once `stopping` is set."""
    if stopping.is_set():
        work.close()
        return None
    task, stop = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    try:
        waiting: set[asyncio.Task[Any]] = {task, stop}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({task}, timeout=GRACE)
        return task.result() if task.done() else None
    finally:
        stop.cancel()
        task.cancel()


async def _read_ahead(items: Generator[T], stopping: asyncio.Event) -> AsyncGenerator[T]:
    """
    Yield items that a thread produces, one ahead of their use, until `stopping` is set.

    A thread cannot be interrupted. One that is busy then is not waited for; as a daemon it does
    not keep the process alive.
    """
    requests = SimpleQueue[asyncio.Future[T | None] | None]()
    loop = asyncio.get_running_loop()

    def produce() -> None:
        while (request := requests.get()) is not None:
            try:
                item, error = next(items, None), None
            except Exception as raised:  # noqa: BLE001 - raised where the item is awaited
                item, error = None, raised
            with suppress(RuntimeError):  # the loop is closed: nothing waits any more
                loop.call_soon_threadsafe(_set, request, item, error)
        items.close()

    def request() -> asyncio.Future[T | None]:
        future = loop.create_future()
        requests.put(future)
        return future

    thread = Thread(target=produce, name="loading", daemon=True)
    thread.start()
    stop = asyncio.create_task(stopping.wait())
    upcoming = request()
    try:
        while True:
            waiting: set[asyncio.Future[Any]] = {upcoming, stop}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if stop.done() or (item := upcoming.result()) is None:
                return
            upcoming = request()
            yield item
    finally:
        upcoming.cancel()
        stop.cancel()
        requests.put(None)
        if not stopping.is_set():
            thread.join()


def _set(future: "asyncio.Future[T]", item: T, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(item)
    else:
        future.set_exception(error)


def _batches(changes: Sequence[Put | Delete]) -> Iterator[Sequence[Put | Delete]]:
    """
    Split changes into transactions that are short enough not to block other writers.

    No transaction changes a resource twice, so that it may be repeated.
    """
    batch, keys, size = list[Put | Delete](), set[tuple[str, str]](), 0
    for change in changes:
        key = (change.resource_type, change.id)
        length = (
            len(change.resource.head) + len(change.resource.tail) if isinstance(change, Put) else 0
        )
        full = len(batch) >= WRITE_CHANGES or size + length > WRITE_BYTES or key in keys
        if batch and full:
            yield batch
            batch, keys, size = [], set(), 0
        batch.append(change)
        keys.add(key)
        size += length
    if batch:
        yield batch
