"""
The log of the primary bucket: numbered commits, each created by one conditional request.

`log/N` is commit N. A process that creates the object has committed; one that finds it there reads
it and tries the next number. A checkpoint is a commit as well: it names the sorted runs that hold
everything up to an earlier commit. The empty object `checkpoints/N` marks commit N as one.
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
"""How long an object is kept after a checkpoint has made it superfluous."""

TRUSTED_SECONDS = GRACE_SECONDS / 3
"""
How long a process may rely on what it has read of the log.

Within this time no commit can have been created and removed again, so that its number would look
free: the clocks of two machines do not differ threefold in measuring a duration.
"""

READ_AHEAD = 16
"""How many small commits are read at once."""

SMALL_BYTES = 256 * 1024

RETRY_SECONDS = 30.0
"""For how long a commit is repeated whose response was lost."""

FIRST_PAUSE_SECONDS = 0.05

Lines = Sequence[bytes]

ATTEMPTS = 5
"""How often the log is read again if its checkpoint was superseded meanwhile."""


class Moment(NamedTuple):
    """
    Runs and the tail after them, which together have every version up to a commit.

    A later checkpoint changes neither; later commits are appended to the tail.
    """

    runs: Sequence[Run]
    tail: Tail


class State:
    """The log up to one commit, as it was read from a checkpoint on."""

    def __init__(
        self, checked_at: float, checkpoint: Checkpoint, checkpoint_number: int = 0
    ) -> None:
        self.number = checkpoint.through
        """The number of the last commit that was read."""
        self.stamp = 0
        """The stamp of that commit; rows of later commits have higher ones."""
        self.checkpoint = checkpoint
        self.checkpoint_number = checkpoint_number
        """The number of the commit with the checkpoint, 0 without one."""
        self.tail = Tail()
        self.checked_at = checked_at
        """All commits before this time were read; see `elapsed`."""

    @property
    def moment(self) -> Moment:
        """A consistent set of runs and tail for a read that waits for the bucket."""
        return Moment(self.checkpoint.runs, self.tail)

    @property
    def trusted(self) -> bool:
        """Whether no commit after the last one can have been created and removed again."""
        return elapsed() - self.checked_at < TRUSTED_SECONDS

    def apply(self, number: int, commit: Commit, lines: Sequence[bytes]) -> None:
        """Apply the next commit, unless it was applied meanwhile."""
        if number != self.number + 1:
            return
        self.number, self.stamp = number, max(self.stamp, commit.stamp)
        self.tail.append(number, commit, lines)
        if commit.checkpoint is not None:
            self.checkpoint, self.checkpoint_number = commit.checkpoint, number
            self.tail = self.tail.after(commit.checkpoint.through)


class Log:
    """The log as one process has read it."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.state = State(float("-inf"), Checkpoint())
        self.appending = asyncio.Lock()
        """Held during a commit, so that tasks of one process do not compete."""
        self._refreshing = asyncio.Lock()

    def next_stamp(self) -> int:
        """Return the stamp for a next commit with rows."""
        return max(_wall(), self.state.stamp + 1)

    def settled_stamp(self) -> int:
        """Return the stamp for a next commit without rows."""
        return max(_wall(), self.state.stamp)

    async def refresh(self) -> None:
        """Read every commit that was made before this call."""
        called_at = elapsed()
        async with self._refreshing:
            if self.state.checked_at >= called_at:
                return
            if not self.state.trusted or not await self._read_on(self.state):
                await self._reload()

    async def ensure(self, stamp: int | None) -> None:
        """Read all commits with a stamp up to this one; None stands for all that exist now."""
        if stamp is None or stamp > self.state.stamp or not self.state.trusted:
            await self.refresh()

    async def require(self, stamp: int) -> None:
        """
        Read all commits with a stamp up to a settled one.

        Raises:
            BackendError: The commit with the settled stamp is missing.
        """
        await self.ensure(stamp)
        if stamp > self.state.stamp:
            raise BackendError(
                "the log of the primary bucket ends before the transaction time of an export: its"
                " last commits are missing; restore the objects from a backup"
            )

    async def reload(self) -> None:
        """Read the log again from the newest checkpoint."""
        async with self._refreshing:
            await self._reload()

    async def append(self, after: State, commit: Commit, lines: Lines = ()) -> bool:
        """
        Commit after a state; return False if another commit has got the number.

        Raises:
            BackendUnavailable: The bucket cannot be used, or it is unknown whether the commit was
                created.
        """
        number, body = commit.number, await in_thread(encode_commit, commit, lines)
        if self.state is not after or after.number + 1 != number or not after.trusted:
            return False
        key, began_at = commit_key(number), elapsed()
        if await self._create(key, body):
            if not after.trusted:
                # The key may have been free because another commit with it was removed.
                raise BackendUnavailable(
                    "the process was suspended while it wrote to the primary bucket; read the"
                    " resource to see whether it was changed"
                )
            after.apply(number, commit, lines)
            after.checked_at = max(after.checked_at, began_at)
            return True
        # The driver repeats requests: the existing object may be the one that it has written.
        existing = await self.objects.get(key)
        if existing is None:
            return False
        found, found_lines = await in_thread(decode_commit, number, existing)
        after.apply(number, found, found_lines)
        return found.token == commit.token

    async def _create(self, key: str, body: bytes) -> bool:
        """
        Create an object; repeat the request if its response was lost, to learn the outcome.

        Raises:
            BackendUnavailable: The bucket did not respond within `RETRY_SECONDS`.
        """
        until = elapsed() + RETRY_SECONDS
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
        for _ in range(ATTEMPTS):
            began_at = elapsed()
            marks = [found.key async for found in self.objects.list("checkpoints")]
            newest = max((int(key.rpartition("/")[2]) for key in marks), default=0)
            checkpoint = await self._checkpoint(newest) if newest else Checkpoint()
            if checkpoint is not None:
                state = State(began_at, checkpoint, newest)
                if await self._read_on(state) and state.number >= newest:
                    await self._require_no_gap(state)
                    self.state = state
                    return
        raise BackendUnavailable("the log of the primary bucket changes faster than it is read")

    async def _require_no_gap(self, state: State) -> None:
        """
        Check that there is no commit after the one at which the log seems to end.

        Raises:
            BackendError: A commit in between is missing.
        """
        last = commit_key(state.number)
        async for found in self.objects.list("log"):
            last = max(last, found.key)
        if last > commit_key(state.number):
            await self._read_on(state)
        if last > commit_key(state.number):
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
        """Read commits until there is no next one; return whether that is reliable."""
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
    """Return the key of the object that marks a commit as a checkpoint."""
    return f"checkpoints/{number:016}"


def _wall() -> int:
    """Return the microseconds since 1970 by this machine's clock."""
    return time.time_ns() // 1000


def elapsed() -> float:
    """Return a monotonic time in seconds, which includes suspension if the system supports it."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
