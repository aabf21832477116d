"""
Compaction: the tail of the log becomes a sorted run, and runs of one level are merged into one.

Both first write extents under new names, then a checkpoint that refers to them, as the next
commit. A process that is killed in between leaves extents without a reference, which are removed
later. If two processes compact the same commits, the second one discards its run.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import uuid4

import structlog

from helios_core import BackendError, in_thread
from helios_s3.compartments import CompartmentWriter, Entry, merged_entries, sorted_entries
from helios_s3.encoding import Block, Checkpoint, Commit, Run, StoredRow
from helios_s3.extents import ExtentBuilder
from helios_s3.log import GRACE_SECONDS, State, checkpoint_key, commit_key, elapsed
from helios_s3.objects import MissingObject
from helios_s3.reading import chunks
from helios_s3.rows import Rows

TAIL_BYTES = 16 * 1024 * 1024
TAIL_ROWS = 16_000
TAIL_COMMITS = 500
"""If the tail exceeds any of these, it is flushed to a run."""

HIGHEST_SHARE = 1.5
"""Writes wait for compaction if the tail exceeds any of these limits by this factor."""

KEYS_AT_ONCE = 1000

RUNS_PER_LEVEL = 8
"""This many runs of one level are merged."""

EXTENT_GRACE_SECONDS = 86_400.0
"""How long an extent without a reference is kept, since a merge may be writing it."""

LONGEST_SECONDS = EXTENT_GRACE_SECONDS / 3
"""How long the writing of a run may take, so that its first extents are not removed."""

CLEANING_SECONDS = 600
RETRY_SECONDS = 30

_EXTENTS = "extents"

Following = Callable[[Checkpoint], Checkpoint | None]
"""Returns the checkpoint that replaces the current one, or None if the run is superfluous."""


class Compactor:
    """Compacts the log in the background of a process that writes."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._log = rows.log
        self._requested = asyncio.Event()
        self._working = asyncio.Lock()
        self._cleaned_at = float("-inf")

    def notice(self) -> None:
        """Request a compaction if the tail is long enough; called after every write."""
        if self._tail_share() >= 1:
            self._requested.set()

    async def relieve(self) -> None:
        """Compact at once if the tail is too long to be kept in memory."""
        if self._tail_share() >= HIGHEST_SHARE:
            await self.compact()

    async def run(self) -> None:
        """Compact on request, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._requested.wait()
            self._requested.clear()
            try:
                await self.compact()
                if loop.time() - self._cleaned_at > CLEANING_SECONDS:
                    await self.clean()
                    self._cleaned_at = loop.time()
            except (BackendError, MissingObject) as error:
                # The commits remain in the log, and the next write requests a compaction.
                structlog.get_logger().warning("compaction.failed", error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    async def compact(self, *, everything: bool = False) -> None:
        """Flush the tail if it is long enough, then merge runs while a level has too many."""
        async with self._working:
            if everything or self._tail_share() >= 1:
                await self._flush(self._log.state)
            while (merged := _mergeable(self._log.state.checkpoint)) is not None:
                if not await self._merge(merged):
                    return

    async def clean(self) -> None:
        """Remove objects that the newest checkpoint makes superfluous, after a grace period."""
        await self._log.refresh()
        state = self._log.state
        if not state.checkpoint_number:
            return
        # New processes must find this checkpoint, even if its process died before the mark.
        mark = checkpoint_key(state.checkpoint_number)
        await self._log.objects.put(mark, b"")
        marks = [found async for found in self._log.objects.list("checkpoints")]
        # The server's time is at least this.
        now = max(found.modified for found in marks)
        superfluous = now - timedelta(seconds=GRACE_SECONDS)
        abandoned = now - timedelta(seconds=EXTENT_GRACE_SECONDS)
        kept = set[str]().union(*(run.extents for run in state.checkpoint.runs))
        kept |= {mark, commit_key(state.checkpoint_number)}
        for folder, until, before in (
            ("checkpoints", mark, superfluous),
            ("log", commit_key(state.checkpoint.through + 1), superfluous),
            (_EXTENTS, f"{_EXTENTS}/~", abandoned),
        ):
            await self._clean_folder(folder, kept, until, before)

    async def _clean_folder(
        self, folder: str, kept: set[str], until: str, before: datetime
    ) -> None:
        keys = list[str]()
        async for found in self._log.objects.list(folder):
            if found.key < until and found.modified < before and found.key not in kept:
                keys.append(found.key)
            if len(keys) == KEYS_AT_ONCE:
                await self._log.objects.delete(keys)
                keys.clear()
        await self._log.objects.delete(keys)

    def _tail_share(self) -> float:
        tail = self._log.state.tail
        return max(tail.bytes / TAIL_BYTES, tail.rows / TAIL_ROWS, tail.commits / TAIL_COMMITS)

    async def _flush(self, state: State) -> None:
        """Write the tail as a run."""
        through, based_on = state.number, state.checkpoint.through
        writer = _RunWriter(self._rows)
        by_collection = defaultdict[str, list[StoredRow]](list)
        for collection, found in state.tail.all_rows():
            by_collection[collection].append(found)
        for collection, rows in by_collection.items():
            await writer.add(collection, rows)
            await writer.add_entries(collection, await in_thread(sorted_entries, rows))
        run = await writer.finish(level=0)

        def following(current: Checkpoint) -> Checkpoint | None:
            if current.through != based_on:
                return None
            runs = (*current.runs, run) if run.blocks else current.runs
            return Checkpoint(through, runs)

        await self._commit(following, run, writer.began_at)

    async def _merge(self, merged: Sequence[Run]) -> bool:
        """Merge runs into one; return whether the result was committed."""
        names = {run.name for run in merged}
        writer = _RunWriter(self._rows)
        for collection in sorted(set[str]().union(*(run.collections for run in merged))):
            async for window in self._rows.scan_runs(merged, collection):
                await writer.add(collection, window)
                del window  # or it would stay in memory while the next one is read
            async for entries in merged_entries(self._rows, merged, collection):
                await writer.add_entries(collection, entries)
                del entries
        run = await writer.finish(level=1 + max(source.level for source in merged))

        def following(current: Checkpoint) -> Checkpoint | None:
            if not names <= {other.name for other in current.runs}:
                return None
            kept = (other for other in current.runs if other.name not in names)
            return Checkpoint(current.through, (*kept, run))

        return await self._commit(following, run, writer.began_at)

    async def _commit(self, following: Following, run: Run, began_at: float) -> bool:
        """Commit the following checkpoint; if the run is superfluous by now, discard it."""
        token = uuid4().hex
        async with self._log.appending:
            while (checkpoint := following(self._log.state.checkpoint)) is not None:
                if elapsed() - began_at > LONGEST_SECONDS:
                    break
                state = self._log.state
                number = state.number + 1
                commit = Commit(number, token, state.stamp, checkpoint=checkpoint)
                if await self._log.append(state, commit):
                    await self._log.objects.put(checkpoint_key(number), b"")
                    return True
                await self._log.refresh()
        await self._log.objects.delete(sorted(run.extents))
        return False


class _RunWriter:
    """Writes a run: sorted rows as extents, and sorted entries as segments."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.began_at = elapsed()
        self._name = uuid4().hex
        self._blocks = list[Block]()
        self._compartments = CompartmentWriter(rows)
        self._builder = self._next_builder()
        self._latest = ("", "")

    async def add(self, collection: str, found: Sequence[StoredRow]) -> None:
        """Add sorted rows of a collection, whose lines are read here."""
        for chunk in chunks(found):
            lines = await self._rows.stored_lines(chunk)
            for stored, line in zip(chunk, lines, strict=True):
                following = (collection, stored.row.id)
                if following != self._latest and self._builder.full:
                    await self._end_extent()
                self._latest = following
                self._builder.add(collection, stored.row, None if stored.row.deleted else line)

    async def add_entries(self, collection: str, entries: Sequence[Entry]) -> None:
        """Add sorted compartment entries of a collection."""
        await self._compartments.add(collection, entries)

    async def finish(self, *, level: int) -> Run:
        """Return the run, after writing all its extents."""
        await self._end_extent()
        segments = await self._compartments.finish()
        return Run(self._name, level, tuple(self._blocks), segments)

    async def _end_extent(self) -> None:
        body = await in_thread(self._builder.finish)
        if body:
            await self._rows.log.objects.put(self._builder.name, body)
        for block, hashes in zip(self._builder.blocks, self._builder.hashes, strict=True):
            self._rows.keep_hashes(block, hashes)
        self._blocks += self._builder.blocks
        self._builder = self._next_builder()

    def _next_builder(self) -> ExtentBuilder:
        return ExtentBuilder(f"{_EXTENTS}/{uuid4().hex}")


def _mergeable(checkpoint: Checkpoint) -> list[Run] | None:
    """Return the runs of the lowest level with too many runs, or None."""
    by_level = defaultdict[int, list[Run]](list)
    for run in checkpoint.runs:
        by_level[run.level].append(run)
    full = [level for level, runs in by_level.items() if len(runs) >= RUNS_PER_LEVEL]
    return by_level[min(full)] if full else None
