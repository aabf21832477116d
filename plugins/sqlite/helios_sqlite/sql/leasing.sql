-- name: find_turn
-- The next shard in turn (J8, J11), without jobs set aside (J15).
-- A shard available later than its wait allows counts as free: the clock was set back (J7).
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
-- A shard that will be claimed, with its job.
SELECT {now}, j.tenant, j.id, s.job, s.number, s.shard, s.token, s.attempts, s.postponed,
  s.last_error, j.accepted, j.status, j.created_at, j.completed_at, j.failure
FROM shards AS s JOIN jobs AS j ON j.job = s.job WHERE s.job = ? AND s.number = ?;

-- name: begin_job
-- Set the status of a job whose first shard is claimed.
UPDATE jobs SET status = 'in-progress' WHERE job = ?;

-- name: hold
-- Claim a shard under a new token (J3).
UPDATE shards SET available_at = :now + :wait, wait = :wait, worker = :worker, resources_done = 0,
  touched_at = :now, token = token + 1, attempts = attempts + 1
WHERE job = :job AND number = :number;

-- name: serve
-- Record the turn of a job's tenant (J8), also if a damaged count cannot grow (J15).
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
-- Extend a lease; progress beyond earlier attempts ends the wait for a backend (J19).
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
-- Free a shard after a pause, without counting the attempt, since a backend is down (J19).
UPDATE shards SET worker = NULL, resources_done = 0, available_at = :now + :wait, wait = :wait,
  attempts = attempts - 1, touched_at = :now, postponed = postponed + 1,
  waiting_since = :since, waiting_for = :reason
WHERE job = :job AND number = :number;

-- name: close
-- Close a shard, and return whether any other is open.
UPDATE shards SET worker = NULL, available_at = NULL, done = 1, resources_done = ?1, bytes = ?4,
  touched_at = ?5, waiting_for = NULL, published = ?6, noted = ?7
WHERE job = ?2 AND number = ?3
RETURNING EXISTS (SELECT 1 FROM shards WHERE job = ?2 AND number <> ?3 AND done = 0);

-- name: lost
-- How many shards of a job are missing (J20).
SELECT j.shards - (SELECT count(*) FROM shards WHERE job = j.job) FROM jobs AS j WHERE j.job = ?;

-- name: publish
-- Publish a part.
INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?);

-- name: note
-- Store the notes of a shard.
INSERT INTO notes VALUES (?, ?, ?);

-- name: end_job
-- Set the final status of a job.
UPDATE jobs SET status = ?, failure = ?, completed_at = {now}
WHERE job = ?;

-- name: end_shards
-- Revoke the leases of a job's shards (J6), also if a damaged token cannot grow (J15).
UPDATE shards SET token = min(token, 9223372036854775806) + 1, worker = NULL,
  available_at = NULL, waiting_for = NULL
WHERE job = ?;
