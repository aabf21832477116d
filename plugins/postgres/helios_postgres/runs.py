"""Runs: the extents of collections, merged by the database into as few rows as shards need."""

from collections import defaultdict
from collections.abc import Mapping

import msgspec

from helios_core import SeqRun, read_statements
from helios_postgres.connections import Connection
from helios_postgres.views import Shown

_SQL = read_statements("helios_postgres", "runs")


class Holding(msgspec.Struct):
    """The extents of a type that may have something to show in a view, merged into runs."""

    runs: list[SeqRun] = msgspec.field(default_factory=list)
    last_stamp: int = -1
    """A stamp not below that of its last version."""


async def holdings(
    connection: Connection,
    pieces: Mapping[int, int | None],
    shown: Shown,
    *,
    all_resources: bool,
    shard_bytes: int,
) -> Mapping[int, Holding]:
    """
    Return the holding of each collection, in runs that can be cut into its pieces.

    Collections with nothing to show are left out.

    `pieces` is the number of shards per collection, None for as many as its bytes need. There are
    at most 2 n + 1 runs for n pieces: the extents between two cuts, and one extent for each cut.
    """
    found = defaultdict[int, Holding](Holding)
    query = _SQL["of_all_resources"] if all_resources else _SQL["of_patients"]
    bounds = (shown.at, shown.since, shown.until)
    rows = await connection.fetch(
        query, list(pieces), list(pieces.values()), float(shard_bytes), *bounds
    )
    for collection, first, end, resources, size, last_stamp in rows:
        holding = found[collection]
        holding.runs.append(SeqRun(first=first, seqs=end - first, resources=resources, bytes=size))
        holding.last_stamp = max(holding.last_stamp, last_stamp)
    return found
