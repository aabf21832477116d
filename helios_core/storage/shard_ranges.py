"""Cut what a type holds into shards of about equal bytes, from counts alone."""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

import msgspec

from helios_core.model.exports import Shard


class SeqRun(msgspec.Struct, frozen=True, kw_only=True):
    """A range of seqs, of whose versions only counts are known."""

    first: int
    """The lowest seq of the range."""
    seqs: int
    """How many seqs there are in the range, those that no version has among them."""
    resources: float
    """How many resources there are in it, about: a store may count by larger pieces."""
    bytes: float
    """How many bytes these have, about."""

    @property
    def end(self) -> int:
        """The seq behind the last one."""
        return self.first + self.seqs


class ViewSize(msgspec.Struct, frozen=True, kw_only=True):
    """How many `resources`, of how many `bytes`, a view shows of a type, about."""

    resources: float
    bytes: float


def shard_count(size: ViewSize, shard_bytes: int) -> int:
    """Return into how many shards a view of some size is cut, at least one."""
    return max(1, math.ceil(size.bytes / shard_bytes))


def total_size(runs: Sequence[SeqRun]) -> ViewSize:
    """Return the size of all runs together."""
    return ViewSize(
        resources=sum(run.resources for run in runs), bytes=sum(run.bytes for run in runs)
    )


def cut_shards(
    resource_type: str,
    runs: Sequence[SeqRun],
    size: ViewSize,
    *,
    shard_bytes: int,
    start: str | None = None,
) -> Iterator[Shard]:
    """
    Yield shards, numbered from 0, that cover a type exactly once; their keys are seqs.

    The runs, at least one, say where there is how much; `size` what is shown of it altogether.
    With `start` the first shard begins there, without it there is nothing it could leave out.
    """
    marks = list(_marks(runs, shard_count(size, shard_bytes)))
    starts = [start, *(str(seq) for seq, _ in marks)]
    shares = [0.0, *(share for _, share in marks), 1.0]
    for place, begin in enumerate(starts):
        low, high = shares[place], shares[place + 1]
        yield Shard(
            number=place,
            resource_type=resource_type,
            ordinal=place + 1,
            start=begin,
            end=starts[place + 1] if place + 1 < len(starts) else None,
            resources=round(size.resources * high) - round(size.resources * low),
            bytes=round(size.bytes * high) - round(size.bytes * low),
        )


def _marks(runs: Sequence[SeqRun], pieces: int) -> Iterator[tuple[int, float]]:
    """Yield the seqs that cut runs into pieces of equal bytes, and the share before each."""
    ends = list(accumulate(run.bytes for run in runs))
    if not ends[-1]:
        # All of it was superseded after the transaction time: there is nothing to cut by.
        return
    latest = runs[0].first
    for piece in range(1, pieces):
        share = piece / pieces
        run = runs[place := bisect_left(ends, ends[-1] * share)]
        behind = (ends[place] - ends[-1] * share) / run.bytes
        seq = run.end - round(behind * run.seqs)
        if seq > latest:
            latest = seq
            yield seq, share
