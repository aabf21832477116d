-- fragment: current
-- Whether a version `v` is current.
-- As a value and not as NOT EXISTS, which the planner may turn into a scan of all endings.
(SELECT e.until_stamp FROM endings AS e WHERE e.seq = v.seq) IS NULL AND NOT v.deleted

-- name: among
-- Which of some versions are current.
SELECT v.since_stamp, v.id, v.seq, v.size
FROM versions AS v
WHERE v.seq = ANY($1::bigint[]) AND {current};

-- name: in_extents
-- The current versions of some extents.
-- The range is that of one extent each, so that no version of another collection is looked at.
SELECT h.* FROM unnest($1::bigint[]) AS w (extent) CROSS JOIN LATERAL (
  SELECT v.since_stamp, v.id, v.seq, v.size FROM versions AS v
  WHERE v.seq >= w.extent << {EXTENT_BITS}
    AND v.seq < (w.extent + 1) << {EXTENT_BITS} AND {current}
) AS h;

-- name: by_id
-- The current versions of a collection by id.
SELECT since_stamp, id, seq, size FROM resources
WHERE collection = $1 AND NOT deleted AND ($2::text IS NULL OR id > $2) ORDER BY id LIMIT $3;

-- name: by_id_descending
-- The current versions of a collection by id, in descending order.
SELECT since_stamp, id, seq, size FROM resources
WHERE collection = $1 AND NOT deleted AND ($2::text IS NULL OR id < $2) ORDER BY id DESC LIMIT $3;

-- name: extents_from
-- Extents by when they were begun.
SELECT extent, first_stamp, last_stamp
FROM extents
WHERE extent BETWEEN $1 AND $2 AND last_stamp >= $3
ORDER BY first_stamp, extent;

-- name: extents_up_to
-- Extents by when they were last added to, latest first.
SELECT extent, first_stamp, last_stamp
FROM extents
WHERE extent BETWEEN $1 AND $2 AND first_stamp <= $3
ORDER BY last_stamp DESC, extent;
