"""Cut the resources of a type into shards of about equal bytes, from counts alone."""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

import msgspec

from helios_core.model.exports import Shard


class SeqRun(msgspec.Struct, frozen=True, kw_only=True):
    """A range of seqs, with the number and bytes of the versions in it."""

    first: int
    """The lowest seq of the range."""
    seqs: int
    """The length of the range, including seqs that no version has."""
    resources: float
    """How many resources there are in it, about: a store may count by larger pieces."""
    bytes: float
    """How many bytes these have, about."""

    @property
    def end(self) -> int:
        """The seq after the last one of the range."""
        return self.first + self.seqs


class ViewSize(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate of how many `resources`, of how many `bytes`, a view shows of a type."""

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

    The runs, at least one, say how the bytes are distributed, `size` how much of them the view
    shows. The first shard begins at `start`, or if that is None, with the first resource.
    """
    marks = list(_marks(runs, shard_count(size, shard_bytes)))
    starts = [start, *(str(seq) for seq, _ in marks)]
    shares = [0.0, *(share for _, share in marks), 1.0]
    for position, begin in enumerate(starts):
        low, high = shares[position], shares[position + 1]
        yield Shard(
            number=position,
            resource_type=resource_type,
            ordinal=position + 1,
            start=begin,
            end=starts[position + 1] if position + 1 < len(starts) else None,
            resources=round(size.resources * high) - round(size.resources * low),
            bytes=round(size.bytes * high) - round(size.bytes * low),
        )


def _marks(runs: Sequence[SeqRun], pieces: int) -> Iterator[tuple[int, float]]:
    """Yield the seqs that cut runs into pieces of equal bytes, and the share before each."""
    ends = list(accumulate(run.bytes for run in runs))
    if not ends[-1]:
        # Everything was superseded after the transaction time: there are no bytes to cut by.
        return
    latest = runs[0].first
    for piece in range(1, pieces):
        share = piece / pieces
        run = runs[index := bisect_left(ends, ends[-1] * share)]
        rest = (ends[index] - ends[-1] * share) / run.bytes
        seq = run.end - round(rest * run.seqs)
        if seq > latest:
            latest = seq
            yield seq, share
