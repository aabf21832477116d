"""Plan an export from what blocks say of themselves, and from a bounded look at rows."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from helios_core import ExportView, Shard, TypeKey
from helios_s3.compartments import MARK, estimate, shown_of_cohort
from helios_s3.encoding import collection_of
from helios_s3.rows import Rows, current_at
from helios_s3.views import shown_by

LOOKED_UP = 8192
"""Rows that are looked at before something is taken to be shown."""
TAIL_ROWS = 1 << 30
INDEXED_SHARE = 0.5
"""Of a larger share of a collection the compartments are not read, but all of it."""


class _Piece(NamedTuple):
    """How much there is from an id on."""

    start: str
    resources: float
    bytes: float


async def plan(rows: Rows, view: ExportView, shard_bytes: int) -> list[Shard]:
    """Return the shards of a view, numbered in the order of its types (P2)."""
    await rows.log.require(shown_by(view).at)
    state, shards = rows.log.state, list[Shard]()
    stored = {*state.tail.collections}.union(*(run.collections for run in state.checkpoint.runs))
    for resource_type in view.request.types:
        if collection_of(TypeKey.of(view.request, resource_type)) not in stored:
            continue
        cut = await _shards(rows, view, resource_type, shard_bytes)
        shards += (
            msgspec.structs.replace(shard, number=number)
            for number, shard in enumerate(cut, len(shards))
        )
    return shards


async def _shards(
    rows: Rows, view: ExportView, resource_type: str, shard_bytes: int
) -> Iterable[Shard]:
    """Return the shards of one type, numbered from 0."""
    if view.cohort is not None:
        entries, parts = await estimate(rows, view, resource_type)
        collection = collection_of(TypeKey.of(view.request, resource_type))
        runs = rows.log.state.checkpoint.runs
        stored = sum(block.rows for run in runs for block in run.blocks_of(collection))
        if entries <= stored * INDEXED_SHARE:
            by_patient = [_Piece(*part) for part in parts]
            cut = [*_cut(resource_type, by_patient, 1.0, shard_bytes, MARK)]
            return cut if await _shows_any(rows, view, cut) else []
    pieces = _pieces(rows, view, resource_type)
    share = await _share(rows, view, resource_type) if pieces else None
    return [] if share is None else _cut(resource_type, pieces, share, shard_bytes)


async def _shows_any(rows: Rows, view: ExportView, cut: Sequence[Shard]) -> bool:
    """Return whether shards by patient show anything, or have more than is looked at."""
    looked = 0
    for shard in cut:
        async for window in shown_of_cohort(rows, view, shard):
            if any(view.request.since is not None or not each.row.deleted for each in window):
                return True
            looked += shard.resources + 1
            if looked >= LOOKED_UP:
                return True
    return False


def _pieces(rows: Rows, view: ExportView, resource_type: str) -> list[_Piece]:
    """Return what there may be of a type, sorted by id: blocks, and single rows of the tail."""
    shown, state = shown_by(view), rows.log.state
    collection = collection_of(TypeKey.of(view.request, resource_type))
    pieces = [
        _Piece(block.first, block.resources, block.line_bytes)
        for run in state.checkpoint.runs
        for block in run.blocks_of(collection)
        if shown.may_show(earliest=block.earliest, latest=block.latest)
    ]
    tail, _ = state.tail.between(collection, "", None, most=TAIL_ROWS)
    pieces += [
        _Piece(each.row.id, int(not each.row.deleted), each.row.size + 1)
        for each in tail
        if shown.may_show(earliest=each.row.stamp, latest=each.row.stamp)
    ]
    return sorted(pieces)


async def _share(rows: Rows, view: ExportView, resource_type: str) -> float | None:
    """Return which share of the first rows is shown, or None if the view shows nothing."""
    if view.cohort is not None and not view.cohort.patients:
        return None
    shown, deletions = shown_by(view), view.request.since is not None
    collection = collection_of(TypeKey.of(view.request, resource_type))
    looked = counted = 0
    async for window in rows.scan(collection, None, None):
        looked += len(window)
        counted += sum(
            shown.shows(each.row) and (deletions or not each.row.deleted)
            for each in current_at(window, shown.at)
        )
        if looked >= LOOKED_UP:
            return max(counted, 1) / looked
    return counted / looked if counted else None


def _cut(
    resource_type: str, pieces: list[_Piece], share: float, shard_bytes: int, mark: str = ""
) -> Iterator[Shard]:
    """Yield shards, numbered from 0, that cover a type exactly once; their keys are marked."""
    starts, sizes = [""], [[0.0, 0.0]]
    for piece in pieces:
        size = piece.bytes * share
        if sizes[-1][1] and sizes[-1][1] + size > shard_bytes and piece.start != starts[-1]:
            starts.append(piece.start)
            sizes.append([0.0, 0.0])
        sizes[-1][0] += piece.resources * share
        sizes[-1][1] += size
    for place, (start, (resources, size)) in enumerate(zip(starts, sizes, strict=True)):
        yield Shard(
            number=place,
            resource_type=resource_type,
            ordinal=place + 1,
            start=mark + start or None,
            end=mark + starts[place + 1] if place + 1 < len(starts) else None,
            resources=round(resources),
            bytes=round(size),
        )
