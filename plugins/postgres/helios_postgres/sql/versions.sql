-- name: newest_extents
-- Extents of some collections with versions of a period, by their last stamp, descending.
SELECT e.extent, e.last_stamp FROM unnest($1::integer[]) AS c (collection)
JOIN extents AS e ON e.extent >= c.collection::bigint << {EXTENT_NUMBER_BITS}
  AND e.extent < (c.collection + 1)::bigint << {EXTENT_NUMBER_BITS}
WHERE e.first_stamp <= $2 AND e.last_stamp >= $3
ORDER BY e.last_stamp DESC, e.extent LIMIT $4 OFFSET $5;

-- name: in_extents
-- The versions of a period in some extents, after a position, optionally only those that were
-- current at a stamp or later.
-- Each extent has a range of its own, so that no version of another collection is read.
SELECT h.* FROM unnest($1::bigint[]) AS w (extent) CROSS JOIN LATERAL (
  SELECT v.since_stamp, v.id, v.seq, v.size FROM versions AS v
  WHERE v.seq >= w.extent << {EXTENT_BITS} AND v.seq < (w.extent + 1) << {EXTENT_BITS}
    AND v.since_stamp <= $2 AND v.since_stamp >= $3
    AND (v.since_stamp < $4 OR v.seq < $5)
    AND ($6::bigint IS NULL OR v.since_stamp >= $6 OR (NOT v.deleted AND coalesce(
      (SELECT e.until_stamp FROM endings AS e WHERE e.seq = v.seq), {FOREVER}) > $6))
) AS h;
