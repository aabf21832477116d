"""Load files of resources into a data provider."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec

from helios_core.fhir.definitions import FHIRVersion
from helios_core.loading.inputs import FoundFiles, find_files, read_chunks
from helios_core.loading.intake import LoadOptions, LoadProblem, ParsedChunk, bundle_targets
from helios_core.loading.parsers import parse_files
from helios_core.storage.data_provider import ChangeResult, Delete, Put, SupportsWrites

MAX_PROBLEMS = 100
"""How many bad resources a summary lists; the rest are counted."""

WRITE_CHANGES = 1000
WRITE_BYTES = 4 * 1024 * 1024

T = TypeVar("T")


class LoadPhase(StrEnum):
    """What the load is doing."""

    SCANNING = "scanning"
    """Finding the entries of Bundles, to which other resources may refer."""
    LOADING = "loading"
    """Parsing and writing."""


class LoadProgress(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a load; bytes are counted as on disk, compressed if the file is."""

    phase: LoadPhase
    bytes_done: int
    bytes_total: int
    resources: int
    """Resources read so far, 0 while scanning."""


class LoadSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a load."""

    files: int
    skipped: int
    """Files in the named folders that were skipped because their names are not those of JSON."""
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
    """References to a `urn:` of no loaded Bundle, counted once per resource; they are kept."""
    unresolved_distinct: int
    """How many of these are different."""
    unresolved_by_file: tuple[tuple[Path, int], ...]
    """The files that contain them, with their numbers, in the order of loading."""
    seconds: float

    @property
    def rate(self) -> float:
        """Resources read per second."""
        return self.read / self.seconds if self.seconds else 0.0


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
        self._distinct: set[str] = set()

    @property
    def _read(self) -> int:
        return self.outcomes.total() + self.bad

    def add(self, changes: ParsedChunk) -> None:
        self.bad += len(changes.problems)
        self._problems += changes.problems[: MAX_PROBLEMS - len(self._problems)]
        self._unresolved.update(path for path, _ in changes.unresolved)
        self._distinct.update(reference for _, reference in changes.unresolved)
        self.report(LoadPhase.LOADING, changes.bytes_done)

    def report(self, phase: LoadPhase, bytes_done: int) -> None:
        if self._on_progress is not None:
            progress = LoadProgress(
                phase=phase,
                bytes_done=bytes_done,
                bytes_total=self._files.size,
                resources=self._read,
            )
            self._on_progress(progress)

    def summary(self) -> LoadSummary:
        return LoadSummary(
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
            unresolved_by_file=tuple(
                (Path(path), count) for path, count in self._unresolved.items()
            ),
            seconds=time.monotonic() - self._started,
        )


async def load(  # noqa: PLR0913 - what to load, where to, how, and a callback
    paths: Sequence[Path],
    provider: SupportsWrites,
    *,
    tenant: str,
    fhir_version: FHIRVersion,
    strict: bool = False,
    on_progress: Callable[[LoadProgress], None] | None = None,
    base_urls: tuple[str, ...] = (),
) -> LoadSummary:
    """
    Load files, and the .json, .ndjson and .jsonl files in folders, plain or gzip.

    A file contains NDJSON, a Bundle or a single resource, which is detected from its content. A
    resource keeps its id; a Bundle entry without one gets the id in its fullUrl. Loading again is
    an update, and an unchanged resource gets no new version. A bad resource is reported and the
    rest is loaded; with `strict`, loading stops at the first bad one, and what was written before
    stays. A Bundle is not atomic here: its entries are written in chunks with everything else.

    Raises:
        BackendUnavailable: The data provider cannot write; what was written before stays.
    """
    files = await asyncio.to_thread(find_files, paths)
    tally = _Tally(files, on_progress)
    options = LoadOptions(
        fhir_version=fhir_version,
        base_urls=base_urls,
        targets=await _scan(files, tally),
        strict=strict,
    )
    async with aclosing(_read_ahead(parse_files(options, files))) as chunks:
        async for changes in chunks:
            for batch in _batches(changes.changes):
                applied = await provider.write(tenant, fhir_version, batch)
                tally.outcomes.update(change.outcome for change in applied)
            tally.add(changes)
            if strict and tally.bad:
                break
    return tally.summary()


async def _scan(files: FoundFiles, tally: _Tally) -> dict[str, str]:
    """Return `Type/id` by temporary fullUrl for all Bundles in the files."""
    targets: dict[str, str] = {}
    async with aclosing(_read_ahead(read_chunks(files))) as chunks:
        async for chunk in chunks:
            targets |= bundle_targets(chunk)
            tally.report(LoadPhase.SCANNING, chunk.bytes_done)
    return targets


async def _read_ahead(items: Generator[T]) -> AsyncGenerator[T]:
    """Yield items that a thread produces one ahead of their use."""
    loop = asyncio.get_running_loop()
    with closing(items), ThreadPoolExecutor(1, thread_name_prefix="loading") as thread:
        upcoming = loop.run_in_executor(thread, next, items, None)
        while (item := await upcoming) is not None:
            upcoming = loop.run_in_executor(thread, next, items, None)
            yield item


def _batches(changes: Sequence[Put | Delete]) -> Iterator[Sequence[Put | Delete]]:
    """Split changes into transactions that are short enough not to block other writers."""
    start = size = 0
    for end, change in enumerate(changes):
        size += (
            len(change.resource.head) + len(change.resource.tail) if isinstance(change, Put) else 0
        )
        if end > start and (end - start >= WRITE_CHANGES or size > WRITE_BYTES):
            yield changes[start:end]
            start, size = end, 0
    if start < len(changes):
        yield changes[start:]
