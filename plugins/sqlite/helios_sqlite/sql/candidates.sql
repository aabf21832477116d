-- name: extents
-- The extents between two, in ascending order.
SELECT extent
FROM extents
WHERE extent BETWEEN ? AND ?
ORDER BY extent LIMIT ?;

-- name: extents_descending
-- The extents between two, in descending order.
SELECT extent
FROM extents
WHERE extent BETWEEN ? AND ?
ORDER BY extent DESC LIMIT ?;

-- name: picked
-- Seqs of the cohort that is being read, from one to another.
SELECT seq
FROM picked
WHERE seq >= ? AND seq < ?
ORDER BY seq LIMIT ?;

-- name: sums
-- What must be in the index of some extents.
SELECT s.extent, s.part, s.bucket, s.sum FROM json_each(:extents) AS e
CROSS JOIN index_sums AS s ON s.extent = e.value;

-- name: totals
-- The sum of the sums of each of some extents.
SELECT extent, index_sum FROM extents WHERE extent IN (SELECT value FROM json_each(:extents));

-- name: postings
-- All postings of some extents in some buckets, each of which is a run of terms.
SELECT p.extent, p.term, p.place, p.more FROM json_each(:extents) AS e
CROSS JOIN json_each(:buckets) AS b CROSS JOIN postings AS p
ON p.extent = e.value AND p.term BETWEEN b.value ->> 0 AND b.value ->> 1;

-- name: spans
-- The positions in some extents whose periods lie within bounds.
-- One row for an extent: a row for each position takes three times as long to arrive.
SELECT e.value, json_array(0, (
  SELECT json_group_array(place) FROM spans AS s WHERE s.extent = e.value AND s.kind = :kind
  AND s.low BETWEEN :low_from AND :low_to AND s.high BETWEEN :high_from AND :high_to
))
FROM json_each(:extents) AS e;

-- name: spans_with_sums
-- The sum of the marks of all periods of some extents, and the positions of those within bounds.
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
-- All versions of some ids, each resource's in order.
SELECT id, seq, version_id, until_stamp = {FOREVER} FROM versions INDEXED BY versions_by_id
WHERE collection = ? AND id IN (SELECT value FROM json_each(?)) ORDER BY id, version_id;

-- name: of_ids
-- The versions of some ids within a range of seqs.
SELECT seq FROM versions
WHERE collection = ? AND id IN (SELECT value FROM json_each(?)) AND seq >= ? AND seq < ?;
