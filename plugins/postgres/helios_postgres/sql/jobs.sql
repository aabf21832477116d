-- name: get
-- A job, unless it was cancelled.
SELECT accepted, status, created_at, completed_at, failure
FROM jobs
WHERE tenant = $1 AND id = $2 AND status <> 'cancelled';

-- name: added
-- A job, cancelled or not.
SELECT accepted, status, created_at, completed_at, failure
FROM jobs
WHERE tenant = $1 AND id = $2;

-- name: removable
-- Cancelled jobs, and those that ended long enough ago (J7).
SELECT tenant, id
FROM jobs
WHERE completed_at IS NOT NULL AND (completed_at <= now() - $1::interval OR status = 'cancelled')
ORDER BY completed_at LIMIT $2;

-- fragment: listed
-- The condition of a list of jobs.
($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR owner = $2)
    AND ($3::text[] IS NULL OR status = ANY($3)) AND starts_with(id, $4)
    AND ($5::interval IS NULL OR created_at <= now() - $5)
    AND ($6::interval IS NULL OR created_at > now() - $6)
    AND ($7::timestamptz IS NULL OR created_at < $7
      OR created_at = $7 AND (tenant COLLATE "C", id COLLATE "C") > ($8, $9))

-- name: damaged
-- The readable columns of a job with damaged rows, in the form of the list of jobs.
SELECT job, ''::bytea AS accepted, tenant, id, owner, status,
  least(greatest(created_at, '0001-01-02 UTC'), '9999-12-30 UTC') AS created_at,
  NULL AS completed_at, NULL AS failure, NULL AS touched_at, 0 AS resources_done,
  0 AS resources_total, 0 AS shards_done, 0 AS shards_total, NULL AS waiting_for, 0 AS bytes,
  0 AS attempts, NULL AS last_error
FROM jobs
WHERE {listed} AND job = $10;

-- name: keys
-- The keys of all jobs.
SELECT job, tenant, id FROM jobs;

-- name: claimable
-- The keys of active jobs that are not set aside (J15).
SELECT job, tenant, id
FROM jobs
WHERE status IN ('accepted', 'in-progress') AND job <> ALL($1::bigint[]);

-- name: by_index
-- Use indexes wherever possible in this transaction, as claims do.
SET LOCAL enable_seqscan = off;

-- name: turns
-- All turns, in the order of the table's index.
SELECT tenant, served FROM turns ORDER BY tenant;

-- name: open_shards
-- The open shards of a job, with their fencing tokens.
SELECT shard, token FROM shards WHERE job = $1 AND NOT done;

-- name: list
-- A page of the list of jobs, or only of the jobs in $11 (J16).
SELECT j.job, j.accepted, j.tenant, j.id, j.owner, j.status, j.created_at, j.completed_at,
  j.failure, max(s.touched_at) AS touched_at,
  coalesce(sum(s.resources_done), 0)::bigint AS resources_done,
  coalesce(sum(s.resources), 0)::bigint AS resources_total,
  count(*) FILTER (WHERE s.done) AS shards_done, count(s.number) AS shards_total,
  max(s.waiting_for) AS waiting_for, coalesce(sum(s.bytes), 0)::bigint AS bytes,
  coalesce(max(s.attempts), 0) AS attempts, (
    SELECT last_error FROM shards
    WHERE job = j.job AND last_error IS NOT NULL ORDER BY touched_at DESC NULLS LAST LIMIT 1
  ) AS last_error
FROM (
  SELECT * FROM jobs
  WHERE {listed} AND ($11::bigint[] IS NULL OR job = ANY($11))
  ORDER BY created_at DESC, tenant COLLATE "C", id COLLATE "C" LIMIT $10
) AS j
LEFT JOIN shards AS s ON s.job = j.job
GROUP BY j.job, j.accepted, j.tenant, j.id, j.owner, j.status, j.created_at, j.completed_at,
  j.failure
ORDER BY j.created_at DESC, j.tenant COLLATE "C", j.id COLLATE "C";

-- name: useless
-- Lock active jobs that no worker has touched for this long, or that lack shards (J18, J20).
SELECT j.job, j.tenant, j.id, j.shards - (SELECT count(*) FROM shards WHERE job = j.job) AS lost
FROM jobs AS j
WHERE j.status IN ('accepted', 'in-progress') AND (
  j.created_at <= now() - $1::interval AND NOT EXISTS (
    SELECT 1 FROM shards AS s WHERE s.job = j.job AND s.touched_at > now() - $1::interval
  )
  OR j.shards > (SELECT count(*) FROM shards WHERE job = j.job)
)
ORDER BY j.job LIMIT $2 FOR NO KEY UPDATE OF j SKIP LOCKED;

-- name: beat
-- Record until when a worker counts as alive (J17).
INSERT INTO workers
VALUES ($1, now() + $2::interval, $2::interval)
ON CONFLICT (worker) DO UPDATE SET until = excluded.until, wait = excluded.wait;

-- name: bury
-- Forget silent workers (J17), skipping those that another process is removing.
DELETE FROM workers WHERE worker IN (
  SELECT worker FROM workers WHERE until <= now() OR until > now() + 1.5 * least(wait, '1 year')
  FOR UPDATE SKIP LOCKED
);

-- name: retire
-- Forget a worker that has ended (J17).
DELETE FROM workers WHERE worker = $1;

-- name: workforce
-- How many workers are alive, and how many active jobs have no shard that a worker holds (J17).
SELECT (
  SELECT count(*) FROM workers WHERE until > now() AND until <= now() + 1.5 * least(wait, '1 year')
) AS alive, (
  SELECT count(*) FROM jobs AS j
  WHERE j.status IN ('accepted', 'in-progress') AND NOT EXISTS (
    SELECT 1 FROM shards AS s
    WHERE s.job = j.job AND s.worker IS NOT NULL
      AND s.available_at > now() AND s.available_at <= now() + 1.5 * least(s.wait, '1 year')
  )
) AS waiting;

-- name: stalled
-- How many active jobs have a shard that waits for a backend, and for what (J19).
SELECT count(DISTINCT s.job) AS stalled, max(s.waiting_for) AS stalled_for
FROM jobs AS j JOIN shards AS s ON s.job = j.job
WHERE j.status IN ('accepted', 'in-progress') AND NOT s.done AND s.waiting_for IS NOT NULL;

-- name: recent
-- The complete jobs of a tenant, the latest first, without those set aside (J15).
SELECT job, id, accepted, status, created_at, completed_at, failure
FROM jobs
WHERE job <> ALL($1::bigint[]) AND tenant = $2 AND status = 'complete'
ORDER BY completed_at DESC, job DESC LIMIT $3;

-- name: turn
-- Add a tenant to the order of turns (J8).
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
INSERT INTO jobs (tenant, id, accepted, status, created_at, owner, shards)
VALUES ($1, $2, $3, 'accepted', clock_timestamp(), $4, $5) RETURNING job;

-- name: add_shards
-- Add shards that may be claimed at once.
INSERT INTO shards (job, number, phase, shard, resources, available_at)
SELECT $1, number, phase, shard, resources, '-infinity'
FROM unnest($2::int[], $3::int[], $4::bytea[], $5::bigint[])
  AS s (number, phase, shard, resources);

-- name: progress
-- The progress of a job.
SELECT coalesce(sum(s.resources_done), 0)::bigint AS resources_done,
  coalesce(sum(s.resources), 0)::bigint AS resources_total,
  count(*) FILTER (WHERE s.done) AS shards_done, count(s.number) AS shards_total,
  max(s.waiting_for) AS waiting_for
FROM jobs AS j LEFT JOIN shards AS s ON s.job = j.job
WHERE j.tenant = $1 AND j.id = $2 AND j.status <> 'cancelled' GROUP BY j.job;

-- name: parts
-- The published parts of a job, in order; one row of NULL if it has none.
-- Each row also has the parts and resources that completed shards have published, and the number
-- of missing shards (J20).
WITH counted AS MATERIALIZED (
  SELECT j.job, coalesce(sum(s.published), 0)::bigint AS published,
    coalesce(sum(s.resources_done) FILTER (WHERE s.done), 0)::bigint AS exported,
    j.shards - count(s.number) AS lost
  FROM jobs AS j LEFT JOIN shards AS s ON s.job = j.job
  WHERE j.tenant = $1 AND j.id = $2 AND j.status <> 'cancelled' GROUP BY j.job
)
SELECT p.part, p.position, j.published, j.exported, j.lost
FROM counted AS j LEFT JOIN parts AS p ON p.job = j.job
ORDER BY p.kind, p.shard, p.number;

-- name: part
-- The part with a file name; NULL if the job has none.
SELECT p.part, p.position FROM jobs AS j LEFT JOIN parts AS p ON p.job = j.job AND p.name = $3
WHERE j.tenant = $1 AND j.id = $2 AND j.status <> 'cancelled';

-- name: noted
-- The shards of a job with notes, and the size of these; NULL if there are none.
-- Each row also says whether shards are missing.
SELECT j.job, s.number, s.noted, j.shards > (SELECT count(*) FROM shards WHERE job = j.job) AS lost
FROM jobs AS j LEFT JOIN shards AS s ON s.job = j.job AND s.noted > 0
WHERE j.tenant = $1 AND j.id = $2 AND j.status <> 'cancelled' ORDER BY s.number;

-- name: notes
-- The notes of a shard, with the job and the shard in their own row; NULL if there are none.
SELECT n.job, n.shard, n.notes FROM jobs AS j LEFT JOIN notes AS n ON n.job = j.job AND n.shard = $3
WHERE j.tenant = $1 AND j.id = $2 AND j.status <> 'cancelled';

-- name: cancel
-- Lock a job that will be cancelled.
SELECT job
FROM jobs
WHERE tenant = $1 AND id = $2 AND status <> 'cancelled' FOR NO KEY UPDATE;

-- name: identity
-- Which store this is.
SELECT identity FROM stores;

-- name: lock_additions
-- Serialize the additions of a tenant, so that its limit holds (J1).
SELECT pg_advisory_xact_lock($1);

-- name: delete
-- Delete a job, with its shards, parts and notes.
DELETE FROM jobs WHERE tenant = $1 AND id = $2;

-- name: exists
-- Whether a job is stored, cancelled or not.
SELECT EXISTS (SELECT 1 FROM jobs WHERE tenant = $1 AND id = $2);
