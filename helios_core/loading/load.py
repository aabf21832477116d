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
"""How many bad resources a summary describes one by one; the rest are counted."""

WRITE_CHANGES = 1000
WRITE_BYTES = 4 * 1024 * 1024

T = TypeVar("T")


class LoadPhase(StrEnum):
    """What a load is doing."""

    SCANNING = "scanning"
    """Looking for bundles, whose entries other resources may refer to."""
    LOADING = "loading"
    """Parsing and writing."""


class LoadProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a load is; bytes are those on disk, compressed where the file is."""

    phase: LoadPhase
    bytes_done: int
    bytes_total: int
    resources: int
    """Resources read so far, 0 while scanning."""


class LoadSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a load did."""

    files: int
    skipped: int
    """Files left alone because their name, in a folder that was given, is not one of JSON."""
    read: int
    """Resources seen, bad ones included."""
    created: int
    updated: int
    unchanged: int
    deleted: int
    bad: int
    problems: tuple[LoadProblem, ...]
    """The first of the bad ones, at most `MAX_PROBLEMS`."""
    unresolved: int
    """References to a `urn:` that no loaded bundle explains, once per resource, kept as is."""
    unresolved_distinct: int
    """How many different ones among them."""
    unresolved_by_file: tuple[tuple[Path, int], ...]
    """The files that hold them and how many each, in the order of loading."""
    seconds: float

    @property
    def rate(self) -> float:
        """Resources read per second."""
        return self.read / self.seconds if self.seconds else 0.0


class _Tally:
    """Counts while a load runs, and tells how far it is."""

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


async def load(  # noqa: PLR0913 - what to load, where to, how, and whom to tell
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

    A file holds NDJSON, a Bundle or a single resource, which its content tells. A resource keeps
    its id; in a Bundle one without gets that of its fullUrl. Loading again updates, and an
    unchanged resource makes no new version. A bad resource is reported and the rest is loaded;
    with `strict` nothing after the first bad one is, and what came before stays. A Bundle is not
    atomic here: its entries are written in chunks with everything else.

    Raises:
        BackendUnavailable: The provider cannot write; what was written before stays.
    """
    files = await asyncio.to_thread(find_files, paths)
    tally = _Tally(files, on_progress)
    intake = LoadOptions(
        fhir_version=fhir_version,
        base_urls=base_urls,
        targets=await _scan(files, tally),
        strict=strict,
    )
    async with aclosing(_ahead(parse_files(intake, files))) as chunks:
        async for changes in chunks:
            for batch in _batches(changes.changes):
                applied = await provider.write(tenant, fhir_version, batch)
                tally.outcomes.update(change.outcome for change in applied)
            tally.add(changes)
            if strict and tally.bad:
                break
    return tally.summary()


async def _scan(files: FoundFiles, tally: _Tally) -> dict[str, str]:
    """Give what temporary references in these files stand for."""
    known: dict[str, str] = {}
    async with aclosing(_ahead(read_chunks(files))) as chunks:
        async for chunk in chunks:
            known |= bundle_targets(chunk)
            tally.report(LoadPhase.SCANNING, chunk.bytes_done)
    return known


async def _ahead(items: Generator[T]) -> AsyncGenerator[T]:
    """Draw items in a thread, one ahead of what is asked for."""
    loop = asyncio.get_running_loop()
    with closing(items), ThreadPoolExecutor(1, thread_name_prefix="loading") as thread:
        upcoming = loop.run_in_executor(thread, next, items, None)
        while (item := await upcoming) is not None:
            upcoming = loop.run_in_executor(thread, next, items, None)
            yield item


def _batches(changes: Sequence[Put | Delete]) -> Iterator[Sequence[Put | Delete]]:
    """Cut changes into transactions short enough to keep nobody waiting."""
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
