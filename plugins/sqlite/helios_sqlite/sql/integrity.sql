-- name: unlisted
-- Whether there are versions of a collection that is not listed.
WITH RECURSIVE stored (collection) AS (
  SELECT (SELECT seq FROM versions ORDER BY seq LIMIT 1) >> {COLLECTION_BITS}
  UNION ALL
  SELECT (
    SELECT seq FROM versions WHERE seq >= (s.collection + 1) << {COLLECTION_BITS}
    ORDER BY seq LIMIT 1
  ) >> {COLLECTION_BITS}
  FROM stored AS s WHERE s.collection IS NOT NULL
)
SELECT EXISTS (
  SELECT 1 FROM stored AS s
  WHERE s.collection IS NOT NULL AND s.collection NOT IN (SELECT collection FROM collections)
);

-- name: extents
-- How many extents a collection has and from where to where, and the last of its versions.
SELECT count(*), min(extent), max(extent), total(extent - :first), (
  SELECT seq FROM versions WHERE seq >= :first << {EXTENT_BITS}
    AND seq < (:last + 1) << {EXTENT_BITS} ORDER BY seq DESC LIMIT 1
)
FROM extents WHERE extent BETWEEN :first AND :last;

-- name: implausible
-- Whether the counts of any extent do not add up, or its beginning is before that of the last one.
SELECT EXISTS (
  SELECT 1 FROM (
    SELECT check_sum <> 3 * appended + 5 * appended_bytes + 7 * live + 11 * live_bytes
        + 13 * compartment_live + 17 * compartment_bytes AS miscounted,
      first_stamp < lag(first_stamp) OVER (ORDER BY extent) AS disordered
    FROM extents WHERE extent BETWEEN :first AND :last
  ) WHERE miscounted OR disordered
);

-- name: next_extent
-- The first extent of a range, and all that is known of it.
SELECT extent, appended, appended_bytes, live, live_bytes, compartment_live, compartment_bytes,
  live_hash, compartment_hash, row_sum
FROM extents WHERE extent BETWEEN ? AND ? ORDER BY extent LIMIT 1;

-- name: unsummed
-- The first extent behind one that has only counts.
SELECT extent, appended, appended_bytes, live, live_bytes, compartment_live, compartment_bytes,
  live_hash, compartment_hash, row_sum
FROM extents WHERE extent > ? AND row_sum IS NULL ORDER BY extent LIMIT 1;

-- name: set_sums
-- Note what must be in an extent.
UPDATE extents SET live_hash = ?2, compartment_hash = ?3, row_sum = ?4,
  check_sum = 3 * appended + 5 * appended_bytes + 7 * live + 11 * live_bytes
    + 13 * compartment_live + 17 * compartment_bytes
WHERE extent = ?1;

-- name: rows
-- All that is stored of the versions of an extent, without their contents.
SELECT seq, id, version_id, since_stamp, deleted, patients, size, line_hash, until_stamp
FROM versions WHERE seq BETWEEN ? AND ?;

-- name: count
-- How many versions of a range are found from its start on.
SELECT count(*) FROM versions WHERE seq >= ? AND seq < ?;

-- name: exists
-- Whether a version is there.
SELECT EXISTS (SELECT 1 FROM versions WHERE seq = ?);
