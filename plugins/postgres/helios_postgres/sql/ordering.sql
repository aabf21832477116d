-- fragment: current
-- The condition that a version `v` is live.
-- It is a scalar subquery, since the planner may turn NOT EXISTS into a scan of all endings.
(SELECT e.until_stamp FROM endings AS e WHERE e.seq = v.seq) IS NULL AND NOT v.deleted

-- name: among
-- Those of some versions that are live.
SELECT v.since_stamp, v.id, v.seq, v.size
FROM versions AS v
WHERE v.seq = ANY($1::bigint[]) AND {current};

-- name: in_extents
-- The live versions of some extents.
-- Each extent has a range of its own, so that no version of another collection is read.
SELECT h.* FROM unnest($1::bigint[]) AS w (extent) CROSS JOIN LATERAL (
  SELECT v.since_stamp, v.id, v.seq, v.size FROM versions AS v
  WHERE v.seq >= w.extent << {EXTENT_BITS}
    AND v.seq < (w.extent + 1) << {EXTENT_BITS} AND {current}
) AS h;

-- name: by_id
-- The live versions of a collection by id.
SELECT since_stamp, id, seq, size FROM resources
WHERE collection = $1 AND NOT deleted AND ($2::text IS NULL OR id > $2) ORDER BY id LIMIT $3;

-- name: by_id_descending
-- The live versions of a collection by descending id.
SELECT since_stamp, id, seq, size FROM resources
WHERE collection = $1 AND NOT deleted AND ($2::text IS NULL OR id < $2) ORDER BY id DESC LIMIT $3;

-- name: extents_from
-- Extents by their first stamp.
SELECT extent, first_stamp, last_stamp
FROM extents
WHERE extent BETWEEN $1 AND $2 AND last_stamp >= $3
ORDER BY first_stamp, extent;

-- name: extents_up_to
-- Extents by their last stamp, descending.
SELECT extent, first_stamp, last_stamp
FROM extents
WHERE extent BETWEEN $1 AND $2 AND first_stamp <= $3
ORDER BY last_stamp DESC, extent;
