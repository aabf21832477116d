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

-- name: postings
-- Where any of some terms is in some extents.
SELECT p.extent, p.place, p.more FROM json_each(:extents) AS e
CROSS JOIN postings AS p ON p.extent = e.value
AND p.term IN (SELECT value FROM json_each(:terms));

-- name: spans
-- The positions in some extents whose periods lie within bounds.
-- One row for an extent: a row for each position takes three times as long to arrive.
SELECT e.value, (
  SELECT json_group_array(place) FROM spans AS s WHERE s.extent = e.value AND s.kind = :kind
  AND s.low BETWEEN :low_from AND :low_to AND s.high BETWEEN :high_from AND :high_to
)
FROM json_each(:extents) AS e;

-- name: of_ids
-- The versions of some ids within a range of seqs.
SELECT seq FROM versions
WHERE collection = ? AND id IN (SELECT value FROM json_each(?)) AND seq >= ? AND seq < ?;
