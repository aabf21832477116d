"""
The log of the primary bucket: commits that are numbered, each made by one conditional request.

`log/N` is commit N. Whoever creates it has made it; whoever finds it there reads it and tries the
next number. A checkpoint is a commit like any other. It says which sorted runs hold everything up
to an earlier commit, and the empty object `checkpoints/N` says where it is.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from helios_core import BackendError, BackendUnavailable, in_thread
from helios_s3.encoding import Checkpoint, Commit, Run, decode_commit, encode_commit
from helios_s3.objects import Objects
from helios_s3.tail import Tail

GRACE_SECONDS = 3600.0
"""How long an object is kept at least once a checkpoint makes it superfluous."""

TRUSTED_SECONDS = GRACE_SECONDS / 3
"""
How long a process may rest on what it knows of the log.

Within this time no commit can have been made and removed again, so that its number looks free:
two clocks that measure one time do not differ threefold.
"""

READ_AHEAD = 16
"""Commits that are read at once where there are many, and small ones."""

SMALL_BYTES = 256 * 1024

UNSURE_SECONDS = 30.0
"""For how long a commit whose answer was lost is made again."""

FIRST_PAUSE_SECONDS = 0.05

Lines = Sequence[bytes]

RELOADS = 5
"""How often the log is read from a checkpoint that turns out to be superseded."""


class Moment(NamedTuple):
    """
    Runs, and the tail behind them: together they have every version up to a commit.

    A checkpoint that is made later changes neither. A tail gets the rows of later commits.
    """

    runs: Sequence[Run]
    tail: Tail


class State:
    """The log up to one commit, as read from a checkpoint on."""

    def __init__(
        self, checked_at: float, checkpoint: Checkpoint, checkpoint_number: int = 0
    ) -> None:
        self.number = checkpoint.through
        """The number of the last commit that is known."""
        self.stamp = 0
        """The stamp of that commit: all later ones have higher stamps for their rows."""
        self.checkpoint = checkpoint
        self.checkpoint_number = checkpoint_number
        """The number of the commit that is the checkpoint; 0 if there has been none."""
        self.tail = Tail()
        self.checked_at = checked_at
        """Every commit that was made before this time is known."""

    @property
    def moment(self) -> Moment:
        """What a look goes by that waits for the bucket."""
        return Moment(self.checkpoint.runs, self.tail)

    @property
    def trusted(self) -> bool:
        """Whether no commit behind those it knows can have been made and removed again."""
        return elapsed() - self.checked_at < TRUSTED_SECONDS

    def apply(self, number: int, commit: Commit, lines: Sequence[bytes]) -> None:
        """Take the next commit, unless it has been read meanwhile."""
        if number != self.number + 1:
            return
        self.number, self.stamp = number, max(self.stamp, commit.stamp)
        self.tail.append(number, commit, lines)
        if commit.checkpoint is not None:
            self.checkpoint, self.checkpoint_number = commit.checkpoint, number
            self.tail = self.tail.behind(commit.checkpoint.through)


class Log:
    """What one process knows of the log."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.state = State(float("-inf"), Checkpoint())
        self.appending = asyncio.Lock()
        """Held by whoever makes a commit, so that one process does not compete with itself."""
        self._refreshing = asyncio.Lock()

    def next_stamp(self) -> int:
        """Return the stamp of a next commit."""
        return max(_wall(), self.state.stamp + 1)

    def settled_stamp(self) -> int:
        """Return the stamp of a commit without rows."""
        return max(_wall(), self.state.stamp)

    async def refresh(self) -> None:
        """Read every commit that was made before this call."""
        asked_at = elapsed()
        async with self._refreshing:
            if self.state.checked_at >= asked_at:
                return
            if not self.state.trusted or not await self._read_on(self.state):
                await self._reload()

    async def ensure(self, stamp: int | None) -> None:
        """Know every commit with a stamp up to this one; None is all that there are now."""
        if stamp is None or stamp > self.state.stamp or not self.state.trusted:
            await self.refresh()

    async def require(self, stamp: int) -> None:
        """
        Know every commit with a stamp up to that of a settled instant.

        Raises:
            BackendError: The commit that settled it is gone.
        """
        await self.ensure(stamp)
        if stamp > self.state.stamp:
            raise BackendError(
                "the log of the primary bucket ends before an instant that was settled, so its"
                " last commits are gone; restore the objects from a backup"
            )

    async def reload(self) -> None:
        """Begin again at the newest checkpoint."""
        async with self._refreshing:
            await self._reload()

    async def append(self, after: State, commit: Commit, lines: Lines = ()) -> bool:
        """
        Make a commit, which rests on a state up to the one before; return whether it is made.

        Raises:
            BackendUnavailable: The bucket cannot be used, or whether the commit was made cannot be
                said.
        """
        number, body = commit.number, await in_thread(encode_commit, commit, lines)
        if self.state is not after or after.number + 1 != number or not after.trusted:
            return False
        key, began_at = commit_key(number), elapsed()
        if await self._create(key, body):
            if not after.trusted:
                # The name may have been free because the commit that had it was removed.
                raise BackendUnavailable(
                    "the process stood still while it wrote to the primary bucket; read the"
                    " resource to see whether it was changed"
                )
            after.apply(number, commit, lines)
            after.checked_at = max(after.checked_at, began_at)
            return True
        # The driver repeats requests: the object that was there may be the one it has written.
        there = await self.objects.get(key)
        if there is None:
            return False
        found, found_lines = await in_thread(decode_commit, number, there)
        after.apply(number, found, found_lines)
        return found.token == commit.token

    async def _create(self, key: str, body: bytes) -> bool:
        """
        Create an object, again where the answer was lost: what it would have said must be known.

        Raises:
            BackendUnavailable: The bucket did not answer for long.
        """
        until = elapsed() + UNSURE_SECONDS
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self.objects.create(key, body)
            except BackendUnavailable:
                if elapsed() + pause > until:
                    raise
            await asyncio.sleep(pause)
            pause *= 2

    async def _reload(self) -> None:
        for _ in range(RELOADS):
            began_at = elapsed()
            marks = [found.key async for found in self.objects.list("checkpoints")]
            newest = max((int(key.rpartition("/")[2]) for key in marks), default=0)
            checkpoint = await self._checkpoint(newest) if newest else Checkpoint()
            if checkpoint is not None:
                state = State(began_at, checkpoint, newest)
                if await self._read_on(state) and state.number >= newest:
                    await self._require_whole(state)
                    self.state = state
                    return
        raise BackendUnavailable("the log of the primary bucket changes faster than it is read")

    async def _require_whole(self, state: State) -> None:
        """
        Raise if there is a commit behind the one at which the log seems to end.

        Raises:
            BackendError: A commit in between is gone.
        """
        there = commit_key(state.number)
        async for found in self.objects.list("log"):
            there = max(there, found.key)
        if there > commit_key(state.number):
            await self._read_on(state)
        if there > commit_key(state.number):
            raise BackendError(
                f"commit {state.number + 1} is missing from the log of the primary bucket, which"
                " has later ones; restore the object from a backup"
            )

    async def _checkpoint(self, number: int) -> Checkpoint | None:
        body = await self.objects.get(commit_key(number))
        return (
            None if body is None else (await in_thread(decode_commit, number, body))[0].checkpoint
        )

    async def _read_on(self, state: State) -> bool:
        """Read commits until there is none; return whether that can be relied on."""
        ahead = 1
        while True:
            began_at, first = elapsed(), state.number + 1
            keys = [commit_key(number) for number in range(first, first + ahead)]
            bodies = await asyncio.gather(*map(self.objects.get, keys))
            for number, body in enumerate(bodies, first):
                if body is None and number > state.number:
                    if not state.trusted:
                        return False
                    state.checked_at = max(state.checked_at, began_at)
                    return True
                if body is not None:
                    commit, lines = await in_thread(decode_commit, number, body)
                    state.apply(number, commit, lines)
            ahead = READ_AHEAD if max(len(body or b"") for body in bodies) < SMALL_BYTES else 1


def commit_key(number: int) -> str:
    """Return the key of a commit."""
    return f"log/{number:016}"


def checkpoint_key(number: int) -> str:
    """Return the key of the mark that says that a commit is a checkpoint."""
    return f"checkpoints/{number:016}"


def _wall() -> int:
    """Return the microseconds since 1970 by this machine's clock."""
    return time.time_ns() // 1000


def elapsed() -> float:
    """Return seconds that go on while the machine sleeps, where the system can say so."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
