-- name: unlisted
-- Whether there are versions of a collection that does not exist.
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
-- The count and range of a collection's extents, and the seq of its last version.
SELECT count(*), min(extent), max(extent), total(extent - :first), (
  SELECT seq FROM versions WHERE seq >= :first << {EXTENT_BITS}
    AND seq < (:last + 1) << {EXTENT_BITS} ORDER BY seq DESC LIMIT 1
)
FROM extents WHERE extent BETWEEN :first AND :last;

-- name: implausible
-- Whether the check_sum of any extent is wrong, or it begins before the preceding one.
SELECT EXISTS (
  SELECT 1 FROM (
    SELECT check_sum <> 3 * appended + 5 * appended_bytes + 7 * live + 11 * live_bytes
        + 13 * compartment_live + 17 * compartment_bytes AS miscounted,
      first_stamp < lag(first_stamp) OVER (ORDER BY extent) AS disordered
    FROM extents WHERE extent BETWEEN :first AND :last
  ) WHERE miscounted OR disordered
);

-- name: next_extent
-- The first extent of a range, with its counts and sums.
SELECT extent, appended, appended_bytes, live, live_bytes, compartment_live, compartment_bytes,
  live_hash, compartment_hash, row_sum
FROM extents WHERE extent BETWEEN ? AND ? ORDER BY extent LIMIT 1;

-- name: unsummed
-- The next extent that has only counts, without sums.
SELECT extent, appended, appended_bytes, live, live_bytes, compartment_live, compartment_bytes,
  live_hash, compartment_hash, row_sum
FROM extents WHERE extent > ? AND row_sum IS NULL ORDER BY extent LIMIT 1;

-- name: set_sums
-- Set the sums of an extent.
UPDATE extents SET live_hash = ?2, compartment_hash = ?3, row_sum = ?4,
  check_sum = 3 * appended + 5 * appended_bytes + 7 * live + 11 * live_bytes
    + 13 * compartment_live + 17 * compartment_bytes
WHERE extent = ?1;

-- name: rows
-- The versions of an extent without their contents.
SELECT seq, id, version_id, since_stamp, deleted, patients, size, line_hash, until_stamp
FROM versions WHERE seq BETWEEN ? AND ?;

-- name: count
-- How many versions a scan of a range finds.
SELECT count(*) FROM versions WHERE seq >= ? AND seq < ?;

-- name: exists
-- Whether a version exists.
SELECT EXISTS (SELECT 1 FROM versions WHERE seq = ?);
