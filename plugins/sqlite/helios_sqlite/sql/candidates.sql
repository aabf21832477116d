-- name: extents
-- The first extents of a range, ascending.
SELECT extent
FROM extents
WHERE extent BETWEEN ? AND ?
ORDER BY extent LIMIT ?;

-- name: extents_descending
-- The last extents of a range, descending.
SELECT extent
FROM extents
WHERE extent BETWEEN ? AND ?
ORDER BY extent DESC LIMIT ?;

-- name: picked
-- The next picked seqs of the cohort in a range.
SELECT seq
FROM picked
WHERE seq >= ? AND seq < ?
ORDER BY seq LIMIT ?;

-- name: sums
-- The expected sums of the index of some extents.
SELECT s.extent, s.part, s.bucket, s.sum FROM json_each(:extents) AS e
CROSS JOIN index_sums AS s ON s.extent = e.value;

-- name: totals
-- The sum of all index sums of each extent.
SELECT extent, index_sum FROM extents WHERE extent IN (SELECT value FROM json_each(:extents));

-- name: postings
-- All postings of some extents in some buckets, which are ranges of terms.
SELECT p.extent, p.term, p.place, p.more FROM json_each(:extents) AS e
CROSS JOIN json_each(:buckets) AS b CROSS JOIN postings AS p
ON p.extent = e.value AND p.term BETWEEN b.value ->> 0 AND b.value ->> 1;

-- name: spans
-- The positions in some extents with spans within bounds.
-- One row per extent: a row per position takes three times as long.
SELECT e.value, json_array(0, (
  SELECT json_group_array(place) FROM spans AS s WHERE s.extent = e.value AND s.kind = :kind
  AND s.low BETWEEN :low_from AND :low_to AND s.high BETWEEN :high_from AND :high_to
))
FROM json_each(:extents) AS e;

-- name: spans_with_sums
-- The sum of the marks of all spans of some extents, and the positions of those within bounds.
SELECT e.value, (
  SELECT json_array(
    coalesce(sum(s.low % :modulus * (s.place + 1)
      + s.high % :modulus * (2 * s.place + 3)), 0),
    json_group_array(s.place) FILTER (
      WHERE s.low BETWEEN :low_from AND :low_to AND s.high BETWEEN :high_from AND :high_to
    )
  )
  FROM spans AS s WHERE s.extent = e.value AND s.kind = :kind
)
FROM json_each(:extents) AS e;

-- name: versions_of_ids
-- All versions of some ids, by id and version.
SELECT id, seq, version_id, until_stamp = {FOREVER} FROM versions INDEXED BY versions_by_id
WHERE collection = ? AND id IN (SELECT value FROM json_each(?)) ORDER BY id, version_id;

-- name: of_ids
-- The versions of some ids within a range of seqs.
SELECT seq FROM versions
WHERE collection = ? AND id IN (SELECT value FROM json_each(?)) AND seq >= ? AND seq < ?;
