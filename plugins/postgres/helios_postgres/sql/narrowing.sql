-- name: extents
-- The extents that may have something that a view shows.
SELECT extent FROM extents WHERE extent BETWEEN $1 AND $2
AND first_stamp <= $3 AND last_stamp > $4 AND first_stamp < $5 ORDER BY extent;

-- name: astray
-- Those of some versions that neither ended nor are the newest of their resource.
SELECT v.seq FROM unnest($2::bigint[]) AS s (seq) JOIN versions AS v ON v.seq = s.seq
WHERE NOT EXISTS (
  SELECT FROM resources AS r WHERE r.collection = $1 AND r.id = v.id AND r.seq = v.seq
) AND NOT EXISTS (SELECT FROM endings AS e WHERE e.seq = v.seq);
