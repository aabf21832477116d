"""What there is of types, put together by the database to as few rows as shards need."""

from collections import defaultdict
from collections.abc import Mapping

import msgspec

from helios_core import SeqRun
from helios_postgres.connections import Connection
from helios_postgres.views import Shown


def _joined(*, begun: str, begun_bytes: str, ended: str, ended_bytes: str) -> str:
    # A mark is where a shard ends. Extents with as many marks before as through them have none in
    # them, and those between two marks become one run; an extent with a mark stays alone, so that
    # it can be cut there. Sums of float8 are exact up to 2^53, and need no numeric. Tallies are
    # sorted before they are grouped, since a hash of unknown many was written to disk in pieces.
    return f"""
SELECT s.scope, r.*
FROM unnest($1::bigint[], $2::float8[]) AS s (scope, pieces) CROSS JOIN LATERAL (
  WITH tallied AS (
    SELECT extent, sum({ended}) AS resources, sum({ended_bytes}::float8) AS bytes
    FROM (
      SELECT extent, {ended}, {ended_bytes} FROM tallies
      WHERE extent >= s.scope << 28 AND extent < (s.scope + 1) << 28 ORDER BY extent
    ) AS t GROUP BY extent
  ), live AS (
    SELECT e.extent, e.appended, e.last_stamp, e.{begun} - coalesce(t.resources, 0) AS resources,
      e.{begun_bytes}::float8 - coalesce(t.bytes, 0) AS bytes
    FROM extents AS e LEFT JOIN tallied AS t USING (extent)
    WHERE e.extent >= s.scope << 28 AND e.extent < (s.scope + 1) << 28
      AND e.first_stamp <= $4 AND e.last_stamp > $5 AND e.first_stamp < $6
  ), summed AS (
    SELECT *, sum(bytes) OVER () AS total,
      sum(bytes) OVER (ORDER BY extent ROWS UNBOUNDED PRECEDING) AS through FROM live
  ), placed AS (
    SELECT *, coalesce(s.pieces, ceil(total / $3)) / nullif(total, 0) AS marks_per_byte
    FROM summed
  )
  SELECT min(extent) << 12, max((extent << 12) + appended), sum(resources)::float8, sum(bytes),
    max(last_stamp)
  FROM placed
  GROUP BY floor((through - bytes) * marks_per_byte) + floor(through * marks_per_byte)
) AS r (first, behind, resources, bytes, last_stamp)
ORDER BY r.first
"""  # noqa: S608 - put together from constants


_OF_EVERYBODY = _joined(
    begun="begun", begun_bytes="appended_bytes", ended="ended", ended_bytes="ended_bytes"
)
_OF_PATIENTS = _joined(
    begun="compartment_begun",
    begun_bytes="compartment_bytes",
    ended="compartment_ended",
    ended_bytes="compartment_bytes",
)


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
    Give what there is of each scope that has anything, in runs that can be cut into its pieces.

    The pieces are those of `cut_shards`; None are as many as its bytes need. There are no more
    than two runs for each, and one: extents between two cuts, and one that may be cut.
    """
    found = defaultdict[int, Holding](Holding)
    query = _OF_EVERYBODY if everybody else _OF_PATIENTS
    bounds = (shown.at, shown.since, shown.until)
    rows = await connection.fetch(
        query, list(pieces), list(pieces.values()), float(shard_bytes), *bounds
    )
    for scope, first, end, resources, size, last_stamp in rows:
        holding = found[scope]
        holding.runs.append(SeqRun(first=first, seqs=end - first, resources=resources, bytes=size))
        holding.last_stamp = max(holding.last_stamp, last_stamp)
    return found
