"""Planning: shards are cut by the sizes of blocks; only a limited number of rows is read."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from helios_core import ExportView, Shard, TypeKey
from helios_s3.compartments import MARK, estimate, shown_of_cohort
from helios_s3.encoding import collection_of
from helios_s3.rows import Rows, current_at
from helios_s3.views import shown_by

LOOKED_UP = 8192
"""How many rows are read to find out whether a type has anything to export."""
TAIL_ROWS = 1 << 30
INDEXED_SHARE = 0.5
"""If a cohort has more than this share of a collection, all of it is read instead."""


class _Piece(NamedTuple):
    """The resources and bytes from an id on."""

    start: str
    resources: float
    bytes: float


async def plan(rows: Rows, view: ExportView, shard_bytes: int) -> list[Shard]:
    """Return the shards of a view, numbered from 0 in the order of its types (P2)."""
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
    """Return whether shards by patient show anything, or have more than `LOOKED_UP` rows."""
    seen = 0
    for shard in cut:
        async for window in shown_of_cohort(rows, view, shard):
            if any(view.request.since is not None or not stored.row.deleted for stored in window):
                return True
            seen += shard.resources + 1
            if seen >= LOOKED_UP:
                return True
    return False


def _pieces(rows: Rows, view: ExportView, resource_type: str) -> list[_Piece]:
    """Return the blocks and tail rows of a type that may be shown, sorted by id."""
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
        _Piece(stored.row.id, int(not stored.row.deleted), stored.row.size + 1)
        for stored in tail
        if shown.may_show(earliest=stored.row.stamp, latest=stored.row.stamp)
    ]
    return sorted(pieces)


async def _share(rows: Rows, view: ExportView, resource_type: str) -> float | None:
    """Return the share of the first rows that is shown, or None if the view shows nothing."""
    if view.cohort is not None and not view.cohort.patients:
        return None
    shown, deletions = shown_by(view), view.request.since is not None
    collection = collection_of(TypeKey.of(view.request, resource_type))
    seen = counted = 0
    async for window in rows.scan(collection, None, None):
        seen += len(window)
        counted += sum(
            shown.shows(stored.row) and (deletions or not stored.row.deleted)
            for stored in current_at(window, shown.at)
        )
        if seen >= LOOKED_UP:
            return max(counted, 1) / seen
    return counted / seen if counted else None


def _cut(
    resource_type: str, pieces: list[_Piece], share: float, shard_bytes: int, mark: str = ""
) -> Iterator[Shard]:
    """Yield shards, numbered from 0, that cover a type exactly once, with marked bounds."""
    starts, sizes = [""], [[0.0, 0.0]]
    for piece in pieces:
        size = piece.bytes * share
        if sizes[-1][1] and sizes[-1][1] + size > shard_bytes and piece.start != starts[-1]:
            starts.append(piece.start)
            sizes.append([0.0, 0.0])
        sizes[-1][0] += piece.resources * share
        sizes[-1][1] += size
    for number, (start, (resources, size)) in enumerate(zip(starts, sizes, strict=True)):
        yield Shard(
            number=number,
            resource_type=resource_type,
            ordinal=number + 1,
            start=mark + start or None,
            end=mark + starts[number + 1] if number + 1 < len(starts) else None,
            resources=round(resources),
            bytes=round(size),
        )
