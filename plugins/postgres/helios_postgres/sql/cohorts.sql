-- name: sweep
-- Remove what is left over.
-- A cohort that is being read is touched by every shard; one that was not for a day is not read.
WITH old AS (
  DELETE FROM cohorts WHERE used_at < now() - interval '1 day' RETURNING cohort
)
DELETE FROM cohort_members AS m USING old WHERE m.cohort = old.cohort;

-- name: find
-- A cohort, and whether it should be touched.
SELECT cohort, used_at < now() - interval '1 hour' FROM cohorts
WHERE key = $1;

-- name: touch
-- Keep a cohort.
UPDATE cohorts SET used_at = now() WHERE cohort = $1;

-- name: add
-- Add a cohort.
-- Whoever is second waits here until the first one has sent the members.
INSERT INTO cohorts (key, used_at)
VALUES ($1, now())
ON CONFLICT DO NOTHING;

-- name: is_there
-- Whether a cohort is there; a crash empties its tables.
SELECT EXISTS (SELECT FROM cohorts WHERE cohort = $1 AND key = $2);
