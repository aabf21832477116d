-- name: recent
-- The recent entries of some extents, added by small transactions.
SELECT extent, content FROM recent_terms
WHERE extent = ANY($1::bigint[]);

-- name: postings
-- The postings of some extents in some buckets.
SELECT extent, bucket, content FROM postings
WHERE extent = ANY($1::bigint[]) AND bucket = ANY($2::smallint[]);

-- name: totals
-- The sum of all index sums of each extent, and the sum of its recent entries.
SELECT extent, index_sum, recent_sum FROM extents WHERE extent = ANY($1::bigint[]);

-- name: sums
-- The expected sums of the index of some extents.
SELECT extent, part, bucket, sum FROM index_sums WHERE extent = ANY($1::bigint[]);

-- name: span_sums
-- The sums of the marks of the spans of one kind in some extents.
SELECT extent, sum(
  low_min % $3 * (content_mark % 8191 + 1) + 3 * (low_min % $3) + 5 * (low_max % $3)
  + 7 * (high_min % $3) + 11 * (high_max % $3) + 13 * places_mark + 17 * content_mark
) FROM spans WHERE extent = ANY($1::bigint[]) AND kind = $2 GROUP BY extent;

-- name: spans
-- The rows of spans of some extents that may lie within bounds.
-- The content is returned only for rows of which not all spans do.
SELECT extent, places, CASE WHEN NOT (
  low_min >= $3 AND low_max <= $4 AND high_min >= $5 AND high_max <= $6
) THEN content END, places_mark, content_mark
FROM spans WHERE extent = ANY($1::bigint[]) AND kind = $2
AND low_max >= $3 AND low_min <= $4 AND high_max >= $5 AND high_min <= $6;

-- name: found_ids
-- How many ids have all versions in the indexes: the newest by its head, others by endings.
SELECT count(*) FROM resources AS r WHERE r.collection = $1 AND r.id = ANY($2::text[])
  AND EXISTS (SELECT FROM versions AS v WHERE v.seq = r.seq AND v.id = r.id)
  AND r.version_id - 1 = (
    SELECT count(*) FROM endings AS e JOIN versions AS v ON v.seq = e.seq AND v.id = e.id
    WHERE e.collection = $1 AND e.id = r.id
  );

-- name: of_ids
-- All versions of some ids.
-- The newest is found by its head, earlier ones by their endings.
SELECT seq FROM resources WHERE collection = $1 AND id = ANY($2::text[])
UNION ALL SELECT seq FROM endings WHERE collection = $1 AND id = ANY($2::text[]);

-- name: filled
-- The extents that were written to between two stamps.
SELECT extent, appended FROM extents WHERE extent = ANY($1::bigint[])
AND last_stamp >= $2 AND first_stamp <= $3;
