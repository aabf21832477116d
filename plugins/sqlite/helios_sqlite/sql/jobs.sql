-- name: number
-- The number of a job that is visible.
SELECT job
FROM jobs AS j
WHERE j.tenant = ? AND j.id = ? AND j.status <> 'cancelled';

-- name: get
-- A job that was not cancelled.
SELECT accepted, status, created_at, completed_at, failure
FROM jobs
WHERE tenant = ? AND id = ? AND status <> 'cancelled';

-- name: removable
-- Cancelled jobs, and those that ended long enough ago (J7), without those set aside (J15).
SELECT job, id, accepted, status, created_at, completed_at, failure
FROM jobs
WHERE job NOT IN (SELECT value FROM json_each(?))
  AND completed_at IS NOT NULL AND (completed_at <= {now} - ? OR status = 'cancelled')
ORDER BY completed_at LIMIT ?;

-- name: recent
-- The complete jobs of a tenant, the latest first, without those set aside (J15).
SELECT job, id, accepted, status, created_at, completed_at, failure
FROM jobs
WHERE job NOT IN (SELECT value FROM json_each(?)) AND tenant = ? AND status = 'complete'
ORDER BY completed_at DESC, job DESC LIMIT ?;

-- name: active
-- How many exports of a tenant are active.
SELECT count(*)
FROM jobs
WHERE tenant = ? AND status IN ('accepted', 'in-progress');

-- name: add_job
-- Accept a job.
INSERT INTO jobs (tenant, id, accepted, status, created_at)
VALUES (?, ?, ?, ?, {now})
RETURNING job;

-- name: add_shard
-- Add a shard that may be claimed at once.
INSERT INTO shards (job, number, phase, shard, resources, available_at)
VALUES (?, ?, ?, ?, ?, 0);

-- name: progress
-- How far a job is.
-- A job without shards gives a row of zeros; a job that is not there gives none.
SELECT total(s.resources_done), total(s.resources), total(s.done), count(s.number)
FROM jobs AS j
LEFT JOIN shards AS s ON s.job = j.job
WHERE j.tenant = ? AND j.id = ? AND j.status <> 'cancelled'
GROUP BY j.job;

-- name: parts
-- The published parts of a job, in order; a row of NULL if it has none.
-- Beside each, how many resources its completed shards have exported.
SELECT p.part, (SELECT total(s.resources_done) FROM shards AS s WHERE s.job = j.job AND s.done)
FROM jobs AS j
LEFT JOIN parts AS p ON p.job = j.job
WHERE j.tenant = ? AND j.id = ? AND j.status <> 'cancelled'
ORDER BY p.kind, p.shard, p.number;

-- name: part
-- The part of one file name; NULL if the job has none.
SELECT p.part
FROM jobs AS j
LEFT JOIN parts AS p ON p.job = j.job AND p.name = ?
WHERE j.tenant = ? AND j.id = ? AND j.status <> 'cancelled';

-- name: noted
-- Which shards have noted something, and how many bytes.
SELECT n.shard, length(n.notes)
FROM jobs AS j
LEFT JOIN notes AS n ON n.job = j.job
WHERE j.tenant = ? AND j.id = ? AND j.status <> 'cancelled'
ORDER BY n.shard;

-- name: notes
-- The notes of a run of shards.
SELECT n.notes
FROM jobs AS j
JOIN notes AS n ON n.job = j.job AND n.shard BETWEEN ? AND ?
WHERE j.tenant = ? AND j.id = ? AND j.status <> 'cancelled'
ORDER BY n.shard;

-- name: identity
-- Which store this is.
SELECT identity FROM stores;

-- name: delete
-- Forget a job; everything of it goes with it.
DELETE FROM jobs WHERE tenant = ? AND id = ?;

-- name: exists
-- Whether a job is remembered, cancelled or not.
SELECT EXISTS (SELECT 1 FROM jobs WHERE tenant = ? AND id = ?);
