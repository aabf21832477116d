"""
Compaction: the tail of the log becomes a sorted run, and runs of one level become one.

Both write extents first, under names of their own, then a checkpoint that names them, as the next
commit. A process that is killed before leaves extents that nobody names, which are removed later.
Two processes that do the same write twice, and one of them finds that the other was faster.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import uuid4

import structlog

from helios_core import BackendError, in_thread
from helios_s3.compartments import CompartmentWriter, Entry, merged_entries, sorted_entries
from helios_s3.encoding import Block, Checkpoint, Commit, Found, Run
from helios_s3.extents import ExtentBuilder
from helios_s3.log import GRACE_SECONDS, State, checkpoint_key, commit_key, elapsed
from helios_s3.objects import Missing
from helios_s3.reading import chunks
from helios_s3.rows import Rows

TAIL_BYTES = 16 * 1024 * 1024
TAIL_ROWS = 16_000
TAIL_COMMITS = 500
"""With more than any of these, the tail becomes a run."""

HIGHEST_SHARE = 1.5
"""With so many times more than any of these, writes wait for that."""

KEYS_AT_ONCE = 1000

RUNS_PER_LEVEL = 8
"""With so many runs of one level they are merged."""

EXTENT_GRACE_SECONDS = 86_400.0
"""How long an extent that no checkpoint names is kept, since a merge may be writing it."""

LONGEST_SECONDS = EXTENT_GRACE_SECONDS / 3
"""How long a run may take to write; its first extents could be gone if it took longer."""

CLEANING_SECONDS = 600
RETRY_SECONDS = 30

_EXTENTS = "extents"

Following = Callable[[Checkpoint], Checkpoint | None]
"""Returns the checkpoint that follows on one, or None if it can no longer."""


class Compactor:
    """Compacts in the background of a process that writes."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._log = rows.log
        self._asked = asyncio.Event()
        self._working = asyncio.Lock()
        self._cleaned_at = float("-inf")

    def notice(self) -> None:
        """Look whether there is something to do; called after every write."""
        if self._tail_share() >= 1:
            self._asked.set()

    async def relieve(self) -> None:
        """Wait until the tail is short enough to be held in memory."""
        if self._tail_share() >= HIGHEST_SHARE:
            await self.compact()

    async def run(self) -> None:
        """Compact whenever that is asked for, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self.compact()
                if loop.time() - self._cleaned_at > CLEANING_SECONDS:
                    await self.clean()
                    self._cleaned_at = loop.time()
            except (BackendError, Missing) as error:
                # What was written stays in the log, and the next write asks again.
                structlog.get_logger().warning("compaction.failed", error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    async def compact(self, *, everything: bool = False) -> None:
        """Write down the tail if it is long enough, then merge runs while there are too many."""
        async with self._working:
            if everything or self._tail_share() >= 1:
                await self._flush(self._log.state)
            while (merged := _mergeable(self._log.state.checkpoint)) is not None:
                if not await self._merge(merged):
                    return

    async def clean(self) -> None:
        """Remove what the newest checkpoint makes superfluous and has been there long enough."""
        await self._log.refresh()
        state = self._log.state
        if not state.checkpoint_number:
            return
        # Whoever starts must find this checkpoint, though the process that made it may have died.
        mark = checkpoint_key(state.checkpoint_number)
        await self._log.objects.put(mark, b"")
        marks = [found async for found in self._log.objects.list("checkpoints")]
        # By the clock of the server, which has been there at least.
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
        """Make a run of the tail."""
        through, based_on = state.number, state.checkpoint.through
        writer = _RunWriter(self._rows)
        by_collection = defaultdict[str, list[Found]](list)
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
        """Make one run of several; return whether that became a checkpoint."""
        names = {run.name for run in merged}
        writer = _RunWriter(self._rows)
        for collection in sorted(set[str]().union(*(run.collections for run in merged))):
            async for window in self._rows.scan_runs(merged, collection):
                await writer.add(collection, window)
                del window  # or it would be kept while the next one is read
            async for entries in merged_entries(self._rows, merged, collection):
                await writer.add_entries(collection, entries)
                del entries
        run = await writer.finish(level=1 + max(each.level for each in merged))

        def following(current: Checkpoint) -> Checkpoint | None:
            if not names <= {each.name for each in current.runs}:
                return None
            kept = (each for each in current.runs if each.name not in names)
            return Checkpoint(current.through, (*kept, run))

        return await self._commit(following, run, writer.began_at)

    async def _commit(self, following: Following, run: Run, began_at: float) -> bool:
        """Make a checkpoint the next commit, or discard a run that is superfluous by now."""
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
    """Writes sorted rows into extents."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.began_at = elapsed()
        self._name = uuid4().hex
        self._blocks = list[Block]()
        self._compartments = CompartmentWriter(rows)
        self._builder = self._next_builder()
        self._latest = ("", "")

    async def add(self, collection: str, found: Sequence[Found]) -> None:
        """Take sorted rows of a collection, and read their lines."""
        for chunk in chunks(found):
            lines = await self._rows.stored_lines(chunk)
            for each, line in zip(chunk, lines, strict=True):
                following = (collection, each.row.id)
                if following != self._latest and self._builder.full:
                    await self._end_extent()
                self._latest = following
                self._builder.add(collection, each.row, None if each.row.deleted else line)

    async def add_entries(self, collection: str, entries: Sequence[Entry]) -> None:
        """Take what the compartments have of a collection, sorted."""
        await self._compartments.add(collection, entries)

    async def finish(self, *, level: int) -> Run:
        """Return the run, whose extents are all in the bucket."""
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
    """Return the runs of the lowest level that has too many of them."""
    by_level = defaultdict[int, list[Run]](list)
    for run in checkpoint.runs:
        by_level[run.level].append(run)
    full = [level for level, runs in by_level.items() if len(runs) >= RUNS_PER_LEVEL]
    return by_level[min(full)] if full else None
