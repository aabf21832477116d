-- name: sweep
-- Remove unused cohorts.
-- Every shard touches the cohort that it reads; one untouched for a day is not in use.
WITH old AS (
  DELETE FROM cohorts WHERE used_at < now() - interval '1 day' RETURNING cohort
)
DELETE FROM cohort_members AS m USING old WHERE m.cohort = old.cohort;

-- name: find
-- A cohort, and whether it should be touched.
SELECT cohort, used_at < now() - interval '1 hour' FROM cohorts
WHERE key = $1;

-- name: touch
-- Mark a cohort as used.
UPDATE cohorts SET used_at = now() WHERE cohort = $1;

-- name: add
-- Add a cohort.
-- A concurrent transaction waits here until the first one has sent the members.
INSERT INTO cohorts (key, used_at)
VALUES ($1, now())
ON CONFLICT DO NOTHING;

-- name: is_there
-- Whether a cohort exists; a crash empties its tables.
SELECT EXISTS (SELECT FROM cohorts WHERE cohort = $1 AND key = $2);

-- name: expected
-- The expected sum of a cohort in some blocks; patient '' marks damaged blocks.
SELECT coalesce(sum(s.sum), 0) FROM (
  SELECT patient FROM cohort_members WHERE cohort = $1 UNION ALL SELECT ''
) AS k CROSS JOIN LATERAL (
  SELECT sum FROM compartment_sums
  WHERE patient = k.patient AND block BETWEEN $2 AND $3 OFFSET 0
) AS s;

-- name: unsummed_patient
-- Whether a stored patient of a cohort has no sums.
SELECT EXISTS (SELECT FROM cohort_members AS k WHERE k.cohort = $1 AND {no_sums});

-- name: listed
-- The versions of a range in a cohort's compartments, by seq, and in how many each is.
SELECT c.seq, count(*) FROM cohort_members AS k CROSS JOIN LATERAL (
  SELECT seq FROM compartments
  WHERE collection = $2 AND patient = k.patient AND seq >= $3 AND seq < $4 OFFSET 0
) AS c
WHERE k.cohort = $1 GROUP BY c.seq ORDER BY c.seq;

-- name: members
-- The fields of some versions that their marks need, and whether a view shows them.
SELECT {mark}, v.size, v.deleted, (true
  {shown})
FROM versions AS v WHERE v.seq >= $1 AND v.seq < $2 AND v.seq = ANY ($7::bigint[]);
