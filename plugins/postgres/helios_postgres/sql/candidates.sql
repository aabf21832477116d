-- name: recent
-- What small transactions added to some extents.
SELECT extent, content FROM recent_terms
WHERE extent = ANY($1::bigint[]);

-- name: postings
-- The postings of some extents in some buckets.
SELECT extent, bucket, content FROM postings
WHERE extent = ANY($1::bigint[]) AND bucket = ANY($2::smallint[]);

-- name: spans
-- The periods of some extents that may lie within bounds.
-- The content is needed only where not all of a row does.
SELECT extent, places, CASE WHEN NOT (
  low_min >= $3 AND low_max <= $4 AND high_min >= $5 AND high_max <= $6
) THEN content END
FROM spans WHERE extent = ANY($1::bigint[]) AND kind = $2
AND low_max >= $3 AND low_min <= $4 AND high_max >= $5 AND high_min <= $6;

-- name: of_ids
-- The versions of some ids.
-- Earlier versions are not among the heads, but they have endings.
SELECT seq FROM resources WHERE collection = $1 AND id = ANY($2::text[])
UNION ALL SELECT seq FROM endings WHERE collection = $1 AND id = ANY($2::text[]);

-- name: filled
-- The extents that were being filled between two instants.
SELECT extent, appended FROM extents WHERE extent = ANY($1::bigint[])
AND last_stamp >= $2 AND first_stamp <= $3;
