"""What there is of types, put together by the database to as few rows as shards need."""

from collections import defaultdict
from collections.abc import Mapping

import msgspec

from helios_core import SeqRun, read_statements
from helios_postgres.connections import Connection
from helios_postgres.views import Shown

_SQL = read_statements("helios_postgres", "runs")


class Holding(msgspec.Struct):
    """What there is of a type that a view may show."""

    runs: list[SeqRun] = msgspec.field(default_factory=list)
    last_stamp: int = -1
    """When the last of it was written, at the latest."""


async def holdings(
    connection: Connection,
    pieces: Mapping[int, int | None],
    shown: Shown,
    *,
    everybody: bool,
    shard_bytes: int,
) -> Mapping[int, Holding]:
    """
    Return what each collection holds, in runs that can be cut into its pieces.

    Collections that hold nothing are left out.

    The pieces are those of `cut_shards`; None are as many as its bytes need. There are no more
    than two runs for each, and one: extents between two cuts, and one that may be cut.
    """
    found = defaultdict[int, Holding](Holding)
    query = _SQL["of_everybody"] if everybody else _SQL["of_patients"]
    bounds = (shown.at, shown.since, shown.until)
    rows = await connection.fetch(
        query, list(pieces), list(pieces.values()), float(shard_bytes), *bounds
    )
    for collection, first, end, resources, size, last_stamp in rows:
        holding = found[collection]
        holding.runs.append(SeqRun(first=first, seqs=end - first, resources=resources, bytes=size))
        holding.last_stamp = max(holding.last_stamp, last_stamp)
    return found
