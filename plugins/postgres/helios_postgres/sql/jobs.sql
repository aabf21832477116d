-- name: get
-- A job that was not cancelled.
SELECT accepted, status, created_at, completed_at, failure
FROM jobs
WHERE tenant = $1 AND id = $2 AND status <> 'cancelled';

-- name: added
-- A job, cancelled or not.
SELECT accepted, status, created_at, completed_at, failure
FROM jobs
WHERE tenant = $1 AND id = $2;

-- name: removable
-- Cancelled jobs, and those that ended long enough ago (J7), without those set aside (J15).
SELECT job, id, accepted, status, created_at, completed_at, failure
FROM jobs
WHERE job <> ALL($1::bigint[]) AND completed_at IS NOT NULL
  AND (completed_at <= now() - $2::interval OR status = 'cancelled')
ORDER BY completed_at LIMIT $3;

-- name: recent
-- The complete jobs of a tenant, the latest first, without those set aside (J15).
SELECT job, id, accepted, status, created_at, completed_at, failure
FROM jobs
WHERE job <> ALL($1::bigint[]) AND tenant = $2 AND status = 'complete'
ORDER BY completed_at DESC, job DESC LIMIT $3;

-- name: turn
-- Give a tenant its place in the order of turns (J8).
INSERT INTO turns (tenant)
VALUES ($1)
ON CONFLICT DO NOTHING;

-- name: active
-- How many exports of a tenant are active.
SELECT count(*)
FROM jobs
WHERE tenant = $1 AND status IN ('accepted', 'in-progress');

-- name: add_job
-- Accept a job.
INSERT INTO jobs (tenant, id, accepted, status, created_at)
VALUES ($1, $2, $3, 'accepted', clock_timestamp()) RETURNING job;

-- name: add_shards
-- Add shards that may be claimed at once.
INSERT INTO shards (job, number, phase, shard, resources, available_at)
SELECT $1, number, phase, shard, resources, '-infinity'
FROM unnest($2::int[], $3::int[], $4::bytea[], $5::bigint[])
  AS s (number, phase, shard, resources);

-- name: progress
-- How far a job is.
SELECT coalesce(sum(s.resources_done), 0)::bigint AS resources_done,
  coalesce(sum(s.resources), 0)::bigint AS resources_total,
  count(*) FILTER (WHERE s.done) AS shards_done, count(s.number) AS shards_total
FROM jobs AS j LEFT JOIN shards AS s ON s.job = j.job
WHERE j.tenant = $1 AND j.id = $2 AND j.status <> 'cancelled' GROUP BY j.job;

-- name: parts
-- The published parts of a job, in order; a row of NULL if it has none.
-- Beside each, how many resources its completed shards have exported.
SELECT p.part, p.position, (
  SELECT coalesce(sum(s.resources_done), 0) FROM shards AS s WHERE s.job = j.job AND s.done
) AS exported FROM jobs AS j LEFT JOIN parts AS p ON p.job = j.job
WHERE j.tenant = $1 AND j.id = $2 AND j.status <> 'cancelled'
ORDER BY p.kind, p.shard, p.number;

-- name: part
-- The part of one file name; NULL if the job has none.
SELECT p.part, p.position FROM jobs AS j LEFT JOIN parts AS p ON p.job = j.job AND p.name = $3
WHERE j.tenant = $1 AND j.id = $2 AND j.status <> 'cancelled';

-- name: notes
-- The notes of the first shard after one; NULL if there is none.
SELECT n.shard, n.notes FROM jobs AS j LEFT JOIN LATERAL (
  SELECT shard, notes FROM notes WHERE job = j.job AND shard > $3 ORDER BY shard LIMIT 1
) AS n ON true
WHERE j.tenant = $1 AND j.id = $2 AND j.status <> 'cancelled';

-- name: cancel
-- Lock a job that is to be cancelled.
SELECT job
FROM jobs
WHERE tenant = $1 AND id = $2 AND status <> 'cancelled' FOR NO KEY UPDATE;

-- name: identity
-- Which store this is.
SELECT identity FROM stores;

-- name: lock_additions
-- Let the additions of a tenant follow each other, so that its cap holds (J1).
SELECT pg_advisory_xact_lock($1);

-- name: delete
-- Forget a job; everything of it goes with it.
DELETE FROM jobs WHERE tenant = $1 AND id = $2;

-- name: exists
-- Whether a job is remembered, cancelled or not.
SELECT EXISTS (SELECT 1 FROM jobs WHERE tenant = $1 AND id = $2);
