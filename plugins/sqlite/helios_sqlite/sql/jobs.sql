-- name: number
-- The number of a job, unless it was cancelled.
SELECT job
FROM jobs AS j
WHERE j.tenant = ? AND j.id = ? AND j.status <> 'cancelled';

-- name: get
-- A job, unless it was cancelled.
SELECT accepted, status, created_at, completed_at, failure
FROM jobs
WHERE tenant = ? AND id = ? AND status <> 'cancelled';

-- name: removable
-- Cancelled jobs, and those that ended long enough ago (J7).
SELECT tenant, id
FROM jobs
WHERE completed_at IS NOT NULL AND (completed_at <= {now} - ? OR status = 'cancelled')
ORDER BY completed_at LIMIT ?;

-- name: list
-- A page of the list of jobs (J16).
SELECT j.job, j.accepted, j.tenant, j.id, j.owner, j.status, j.created_at, j.completed_at,
  j.failure, max(s.touched_at), total(s.resources_done), total(s.resources), total(s.done),
  count(s.number), max(s.waiting_for), total(s.bytes), coalesce(max(s.attempts), 0), (
    SELECT last_error FROM shards
    WHERE job = j.job AND last_error IS NOT NULL ORDER BY touched_at DESC LIMIT 1
  )
FROM (
  SELECT * FROM jobs
  WHERE (:tenant IS NULL OR tenant = :tenant) AND (:owner IS NULL OR owner = :owner)
    AND (:statuses IS NULL OR status IN (SELECT value FROM json_each(:statuses)))
    AND substr(id, 1, length(:id_prefix)) = :id_prefix
    AND (:older_than IS NULL OR created_at <= {now} - :older_than)
    AND (:younger_than IS NULL OR created_at > {now} - :younger_than)
    AND (:after_at IS NULL OR created_at < :after_at
      OR created_at = :after_at AND (tenant, id) > (:after_tenant, :after_id))
  ORDER BY created_at DESC, tenant, id LIMIT :limit
) AS j
LEFT JOIN shards AS s ON s.job = j.job
GROUP BY j.job
ORDER BY j.created_at DESC, j.tenant, j.id;

-- name: open_shards
-- The open shards of a job, with their fencing tokens.
SELECT shard, token FROM shards WHERE job = ? AND done = 0;

-- name: useless
-- Active jobs that no worker has touched for this long, or that lack shards (J18, J20).
SELECT j.job, j.tenant, j.id, j.shards - (SELECT count(*) FROM shards WHERE job = j.job) AS lost
FROM jobs AS j
WHERE j.status IN ('accepted', 'in-progress') AND (
  j.created_at <= {now} - :ago
  AND NOT EXISTS (SELECT 1 FROM shards WHERE job = j.job AND touched_at > {now} - :ago)
  OR lost > 0
)
ORDER BY j.job LIMIT :limit;

-- name: beat
-- Record until when a worker counts as alive (J17).
INSERT INTO workers
VALUES (:worker, {now} + :wait, :wait)
ON CONFLICT (worker) DO UPDATE SET until = excluded.until, wait = excluded.wait;

-- name: bury
-- Forget silent workers (J17).
DELETE FROM workers WHERE until <= {now} OR until > {now} + wait * 3 / 2;

-- name: retire
-- Forget a worker that has ended (J17).
DELETE FROM workers WHERE worker = ?;

-- name: workforce
-- How many workers are alive, and how many active jobs have no shard that a worker holds (J17).
SELECT (
  SELECT count(*) FROM workers WHERE until > {now} AND until <= {now} + wait * 3 / 2
), (
  SELECT count(*) FROM jobs AS j
  WHERE j.status IN ('accepted', 'in-progress') AND NOT EXISTS (
    SELECT 1 FROM shards
    WHERE job = j.job AND worker IS NOT NULL
      AND available_at > {now} AND available_at <= {now} + wait * 3 / 2
  )
);

-- name: stalled
-- How many active jobs have a shard that waits for a backend, and for what (J19).
SELECT count(DISTINCT s.job), max(s.waiting_for)
FROM jobs AS j CROSS JOIN shards AS s ON s.job = j.job
WHERE j.status IN ('accepted', 'in-progress') AND s.done = 0 AND s.waiting_for IS NOT NULL;

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
INSERT INTO jobs (tenant, id, owner, accepted, status, shards, created_at)
VALUES (?, ?, ?, ?, ?, ?, {now})
RETURNING job;

-- name: add_shard
-- Add a shard that may be claimed at once.
INSERT INTO shards (job, number, phase, shard, resources, available_at)
VALUES (?, ?, ?, ?, ?, 0);

-- name: progress
-- The progress of a job.
-- A job without shards has a row of zeros; a job that does not exist has none.
SELECT total(s.resources_done), total(s.resources), total(s.done), count(s.number),
  max(s.waiting_for)
FROM jobs AS j
LEFT JOIN shards AS s ON s.job = j.job
WHERE j.tenant = ? AND j.id = ? AND j.status <> 'cancelled'
GROUP BY j.job;

-- name: parts
-- The published parts of a job, in order; one row of NULL if it has none.
-- Each row also has the parts and resources that completed shards have published, and the number
-- of missing shards (J20).
WITH counted AS MATERIALIZED (
  SELECT j.job, coalesce(sum(s.published), 0) AS published,
    coalesce(sum(s.resources_done) FILTER (WHERE s.done), 0) AS exported,
    j.shards - count(s.number) AS lost
  FROM jobs AS j LEFT JOIN shards AS s ON s.job = j.job
  WHERE j.tenant = ? AND j.id = ? AND j.status <> 'cancelled' GROUP BY j.job
)
SELECT p.part, j.published, j.exported, j.lost
FROM counted AS j LEFT JOIN parts AS p ON p.job = j.job
ORDER BY p.kind, p.shard, p.number;

-- name: part
-- The part with a file name; NULL if the job has none.
SELECT p.part
FROM jobs AS j
LEFT JOIN parts AS p ON p.job = j.job AND p.name = ?
WHERE j.tenant = ? AND j.id = ? AND j.status <> 'cancelled';

-- name: noted
-- The shards of a job with notes, the expected and actual size of these, and the number of missing
-- shards. NULL stands for missing notes, or for a job without notes.
SELECT s.number, s.noted, length(n.notes), j.shards - (
  SELECT count(*) FROM shards WHERE job = j.job
)
FROM jobs AS j
LEFT JOIN shards AS s ON s.job = j.job AND s.noted > 0
LEFT JOIN notes AS n ON n.job = s.job AND n.shard = s.number
WHERE j.tenant = ? AND j.id = ? AND j.status <> 'cancelled'
ORDER BY s.number;

-- name: notes
-- The notes of a run of shards; NULL if an index leads to the row of another shard, which got the
-- rowid of a lost row. The sign `+` keeps SQLite from reading the columns in that index.
SELECT n.notes
FROM jobs AS j
JOIN notes AS i ON i.job = j.job AND i.shard BETWEEN ? AND ?
LEFT JOIN notes AS n ON n.rowid = i.rowid AND +n.job = i.job AND +n.shard = i.shard
WHERE j.tenant = ? AND j.id = ? AND j.status <> 'cancelled'
ORDER BY i.shard;

-- name: identity
-- Which store this is.
SELECT identity FROM stores;

-- name: delete
-- Delete a job, with its shards, parts and notes.
DELETE FROM jobs WHERE tenant = ? AND id = ?;

-- name: exists
-- Whether a job is stored, cancelled or not.
SELECT EXISTS (SELECT 1 FROM jobs WHERE tenant = ? AND id = ?);
