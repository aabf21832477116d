-- fragment: shown
-- The condition that a view shows a version `v`.
AND v.since_stamp <= :at AND v.until_stamp > :at
  AND v.since_stamp > :since AND v.since_stamp < :until
  AND (:all_resources OR v.patients <> '')

-- fragment: row
-- The columns of a version that are read; damage may have changed their types.
v.seq, coalesce(CAST(v.id AS TEXT), ''), coalesce(CAST(v.size AS INTEGER), 0),
  coalesce(CAST(v.line_hash AS INTEGER), 0),
  CASE WHEN v.size <= :room THEN CAST(v.content AS BLOB) END

-- name: live
-- What a view shows of a range, row by row.
SELECT {row}
FROM versions AS v WHERE v.seq >= :first AND v.seq < :end AND NOT v.deleted
  {shown}
ORDER BY v.seq;

-- name: live_of_cohort
-- What a view shows of a cohort, row by row.
SELECT {row}
FROM picked AS p CROSS JOIN versions AS v ON v.seq = p.seq
WHERE p.seq >= :first AND p.seq < :end AND NOT v.deleted
  {shown}
ORDER BY p.seq;

-- name: live_among
-- What a view shows of some versions.
SELECT {row}
FROM versions AS v WHERE v.seq IN (SELECT value FROM json_each(:seqs)) AND NOT v.deleted
  {shown}
ORDER BY v.seq;

-- name: shown_among
-- Those of some versions that a view shows, without those that are current although a later
-- version exists, which means damage.
SELECT v.seq FROM versions AS v WHERE v.seq IN (SELECT value FROM json_each(:seqs))
  AND NOT v.deleted
  {shown}
  AND (v.until_stamp < {FOREVER} OR NOT EXISTS (
    SELECT 1 FROM versions AS n INDEXED BY versions_by_id
    WHERE n.collection = :collection AND n.id = v.id AND n.version_id > v.version_id
  ));

-- name: live_one
-- One version, if a view shows it.
SELECT {row}
FROM versions AS v WHERE v.seq = :seq AND NOT v.deleted
  {shown};

-- name: deleted
-- The deletions of a range that a view shows.
SELECT v.seq, v.id FROM versions AS v WHERE v.seq >= :first AND v.seq < :end AND v.deleted
  {shown}
ORDER BY v.seq LIMIT :rows;

-- name: deleted_of_cohort
-- The deletions of a cohort that a view shows.
SELECT v.seq, v.id
FROM picked AS p CROSS JOIN versions AS v ON v.seq = p.seq
WHERE p.seq >= :first AND p.seq < :end AND v.deleted
  {shown}
ORDER BY p.seq LIMIT :rows;

-- name: clear_cohort
-- Empty the reader's cohort.
DELETE FROM cohort;

-- name: add_to_cohort
-- Add a patient to the reader's cohort.
INSERT INTO cohort VALUES (?);

-- name: keys
-- Seqs and ids from an index alone, for files with damaged pages.
SELECT seq, id FROM versions INDEXED BY versions_by_id
WHERE collection = :collection AND seq >= :first AND seq < :end
  AND (NOT :picked OR seq IN (SELECT seq FROM picked))
ORDER BY seq LIMIT :rows;

-- name: extents_of_cohort
-- The first extents of a range, and how many bytes of each belong to the cohort.
-- The bytes are estimated from the average size of versions in the extent.
SELECT e.extent, e.appended_bytes, e.appended_bytes * (
  SELECT count(*) FROM picked
  WHERE seq >= e.extent << {EXTENT_BITS} AND seq < (e.extent + 1) << {EXTENT_BITS}
) / max(e.appended, 1)
FROM extents AS e WHERE e.extent BETWEEN :first AND :last ORDER BY e.extent LIMIT :most;

-- name: first_picked
-- The next version of the cohort.
SELECT min(seq) FROM picked WHERE seq >= ? AND seq < ?;

-- name: window
-- All that a view shows of a range, joined to one row.
-- Joining in SQLite saves a step of the Python interpreter, with its lock, per row.
SELECT total(line_hash >> 32), total(line_hash & 4294967295), group_concat(size),
  CAST(group_concat(content, x'0a') AS BLOB)
FROM (
  SELECT v.line_hash, v.size, v.content FROM versions AS v
  WHERE v.seq >= :first AND v.seq < :end AND NOT v.deleted
  {shown}
  ORDER BY v.seq
);

-- name: window_of_cohort
-- All that a view shows of a cohort in a range, joined to one row.
SELECT total(line_hash >> 32), total(line_hash & 4294967295), group_concat(size),
  CAST(group_concat(content, x'0a') AS BLOB)
FROM (
  SELECT v.line_hash, v.size, v.content FROM picked AS p CROSS JOIN versions AS v ON v.seq = p.seq
  WHERE p.seq >= :first AND p.seq < :end AND NOT v.deleted
  {shown}
  ORDER BY p.seq
);
