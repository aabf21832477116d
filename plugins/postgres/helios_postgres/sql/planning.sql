-- name: as_it_comes
-- Switch JIT compilation off.
-- PostgreSQL cannot estimate how many extents a type has. With a hundred types it overestimates,
-- and would compile a query that takes a millisecond.
SET LOCAL jit = off;

-- name: first_extents
-- The first extents that may have something that a view shows.
SELECT extent, appended FROM extents
WHERE extent BETWEEN $1 AND $2 AND first_stamp <= $3 AND last_stamp > $4 AND first_stamp < $5
ORDER BY extent LIMIT $6;

-- name: any_shown
-- Whether any of the first versions of a range is shown.
SELECT EXISTS (
  SELECT FROM (
    SELECT * FROM versions WHERE seq >= $1 AND seq < $2 ORDER BY seq LIMIT $8
  ) AS v WHERE true
  {shown}
  AND (NOT v.deleted OR $7)
);

-- name: shown_of_cohort
-- How many resources and bytes of a sample of patients a view shows.
SELECT count(*), count(*) FILTER (WHERE NOT v.deleted), coalesce(sum(v.size), 0)
FROM versions AS v WHERE v.seq IN (
SELECT c.seq FROM compartments AS c
WHERE c.collection = $8 AND c.patient = ANY ($9::text[]) AND c.seq >= $1 AND c.seq < $2
)
  {shown}
  AND (NOT v.deleted OR $7);

-- name: any_of_cohort
-- Whether any of these patients has anything in a range.
SELECT EXISTS (SELECT FROM compartments AS c
WHERE c.collection = $1 AND c.patient = ANY ($2::text[]) AND c.seq >= $3 AND c.seq < $4);

-- name: some_patients
-- Some patients that have anything in a collection.
SELECT patient FROM compartments
WHERE collection = $1 LIMIT $2;
