-- name: find_turn
-- The job and the shard whose turn it is (J8, J11), without jobs set aside (J15).
-- If more of a wait is left than there is of it, the clock was set back (J7).
SELECT j.job, (
  SELECT number FROM shards AS s
  WHERE s.job = j.job AND s.done = 0
    AND (s.available_at <= {now} OR s.available_at > {now} + s.wait * 3 / 2)
    AND s.phase = (SELECT min(phase) FROM shards WHERE job = j.job AND done = 0)
  ORDER BY number LIMIT 1
) AS free
FROM jobs AS j LEFT JOIN turns AS t ON t.tenant = j.tenant
WHERE j.status IN ('accepted', 'in-progress') AND free IS NOT NULL
  AND j.job NOT IN (SELECT value FROM json_each(?))
ORDER BY coalesce(t.served, 0), j.job LIMIT 1;

-- name: shard_of_turn
-- A shard that is about to be claimed, with its job.
SELECT {now}, j.tenant, j.id, s.job, s.number, s.shard, s.token, s.attempts, s.postponed, s.last_error,
  j.accepted, j.status, j.created_at, j.completed_at, j.failure
FROM shards AS s JOIN jobs AS j ON j.job = s.job WHERE s.job = ? AND s.number = ?;

-- name: begin_job
-- The first shard of a job is claimed.
UPDATE jobs SET status = 'in-progress' WHERE job = ?;

-- name: hold
-- Claim a shard under a new token (J3).
UPDATE shards SET available_at = :now + :wait, wait = :wait, worker = :worker, resources_done = 0,
  touched_at = :now, token = token + 1, attempts = attempts + 1
WHERE job = :job AND number = :number;

-- name: serve
-- Note that the tenant of a job has had its turn (J8), also where a damaged count cannot grow (J15).
INSERT INTO turns SELECT tenant, (
  SELECT min(coalesce(max(served), 0), 9223372036854775806) + 1 FROM turns
)
FROM jobs WHERE job = ?
ON CONFLICT (tenant) DO UPDATE SET served = excluded.served;

-- name: held
-- The shard of a lease that is still the newest one (J4).
SELECT s.job, s.attempts, {now}, (SELECT count(*) FROM parts AS p WHERE p.job = s.job),
  coalesce(s.waiting_since, {now})
FROM jobs AS j JOIN shards AS s ON s.job = j.job
WHERE j.tenant = ? AND j.id = ? AND s.number = ? AND s.token = ? AND s.worker IS NOT NULL
  AND j.status IN ('accepted', 'in-progress');

-- name: renew
-- Extend a lease; a shard that got further waits no longer (J19).
UPDATE shards SET available_at = ?1 + ?2, wait = ?2, resources_done = ?3, touched_at = ?1,
  furthest = max(furthest, ?3), postponed = iif(?3 > furthest, 0, postponed),
  waiting_since = iif(?3 > furthest, NULL, waiting_since),
  waiting_for = iif(?3 > furthest, NULL, waiting_for)
WHERE job = ?4 AND number = ?5;

-- name: hand_back
-- Free a shard, at once or after a pause.
UPDATE shards SET worker = NULL, resources_done = 0, available_at = :available_at, wait = :wait,
  attempts = :attempts, last_error = coalesce(:last_error, last_error), touched_at = :now,
  waiting_for = NULL
WHERE job = :job AND number = :number;

-- name: postpone
-- Free a shard after a pause for a backend, as if it had not been claimed (J19).
UPDATE shards SET worker = NULL, resources_done = 0, available_at = :now + :wait, wait = :wait,
  attempts = attempts - 1, touched_at = :now, postponed = postponed + 1,
  waiting_since = :since, waiting_for = :reason
WHERE job = :job AND number = :number;

-- name: close
-- Close a shard, and tell whether any other is left.
UPDATE shards SET worker = NULL, available_at = NULL, done = 1, resources_done = ?1, bytes = ?4,
  touched_at = ?5, waiting_for = NULL, published = ?6, noted = ?7
WHERE job = ?2 AND number = ?3
RETURNING EXISTS (SELECT 1 FROM shards WHERE job = ?2 AND number <> ?3 AND done = 0);

-- name: lost
-- How many shards a job lacks (J20).
SELECT j.shards - (SELECT count(*) FROM shards WHERE job = j.job) FROM jobs AS j WHERE j.job = ?;

-- name: publish
-- Publish a part.
INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?);

-- name: note
-- Keep what a shard noted for later phases.
INSERT INTO notes VALUES (?, ?, ?);

-- name: end_job
-- Put a job into a final status.
UPDATE jobs SET status = ?, failure = ?, completed_at = {now}
WHERE job = ?;

-- name: end_shards
-- Take the shards of a job from whoever holds them (J6), also where a damaged token cannot grow (J15).
UPDATE shards SET token = min(token, 9223372036854775806) + 1, worker = NULL, available_at = NULL, waiting_for = NULL
WHERE job = ?;
