-- name: claim_shard
-- Claim the next shard in turn, skipping locked rows and jobs set aside (J2, J3, J8, J11, J15).
-- A shard available later than its wait allows counts as free: the clock was set back (J7).
-- A row without a token is a shard that has used up its attempts.
WITH picked AS (
  SELECT free.job, free.number
  FROM (
    SELECT j.job FROM jobs AS j LEFT JOIN turns AS t ON t.tenant = j.tenant
    WHERE j.status IN ('accepted', 'in-progress') AND j.job <> ALL($4::bigint[])
      AND ($5::bigint IS NULL OR j.job = $5)
    ORDER BY coalesce(t.served, 0), j.job
  ) AS waiting
  CROSS JOIN LATERAL (
    SELECT s.job, s.number FROM shards AS s
    WHERE s.job = waiting.job AND NOT s.done
      AND (s.available_at <= now() OR s.available_at > now() + 1.5 * s.wait) AND s.phase = (
      SELECT min(undone.phase) FROM shards AS undone
      WHERE undone.job = waiting.job AND NOT undone.done
    )
    ORDER BY s.number LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
  ) AS free
  LIMIT 1
), held AS (
  UPDATE shards AS s SET available_at = now() + $2::interval, wait = $2::interval, worker = $1,
    resources_done = 0, touched_at = now(),
    token = s.token + 1, attempts = s.attempts + 1
  FROM picked AS p WHERE s.job = p.job AND s.number = p.number AND s.attempts < $3
  RETURNING s.job, s.shard, s.token, s.attempts, s.postponed
), begun AS (
  UPDATE jobs SET status = 'in-progress' WHERE job = (
    SELECT j.job FROM jobs AS j JOIN held AS h ON h.job = j.job WHERE j.status = 'accepted'
    FOR NO KEY UPDATE OF j SKIP LOCKED
  )
), served AS (
  UPDATE turns SET served = nextval('servings') WHERE tenant = (
    SELECT t.tenant FROM turns AS t
    JOIN jobs AS j ON j.tenant = t.tenant JOIN held AS h ON h.job = j.job
    FOR NO KEY UPDATE OF t SKIP LOCKED
  )
)
SELECT p.job, j.tenant, j.id, p.number, h.shard, h.token, h.attempts, h.postponed, j.accepted,
  'in-progress' AS status,
  j.created_at, j.completed_at, j.failure
FROM picked AS p JOIN jobs AS j ON j.job = p.job LEFT JOIN held AS h ON h.job = p.job;

-- name: unclaim
-- Free a shard of a job that this process cannot read, without counting the attempt (J15).
UPDATE shards SET worker = NULL, available_at = '-infinity', attempts = attempts - 1,
  touched_at = NULL
WHERE job = $1 AND number = $2 AND token = $3;

-- name: exhausted
-- A shard, if it is still free and has used up its attempts (J9).
SELECT attempts, last_error FROM shards
WHERE job = $1 AND number = $2 AND NOT done AND attempts >= $3
  AND (available_at <= clock_timestamp() OR available_at > clock_timestamp() + 1.5 * wait);

-- name: notify
-- Wake idle workers of all processes once the transaction is committed.
SELECT pg_notify($1, '');

-- name: lock
-- Lock a job by its number.
SELECT status FROM jobs WHERE job = $1 FOR NO KEY UPDATE;

-- name: find
-- Lock a job by its id.
SELECT job, status
FROM jobs
WHERE tenant = $1 AND id = $2 FOR NO KEY UPDATE;

-- name: renew
-- Extend a lease (J4); progress beyond earlier attempts ends the wait for a backend (J19).
UPDATE shards AS s SET available_at = clock_timestamp() + $5::interval, wait = $5::interval,
  resources_done = $6, touched_at = clock_timestamp(), furthest = greatest(s.furthest, $6),
  postponed = CASE WHEN $6 <= s.furthest THEN s.postponed ELSE 0 END,
  waiting_since = CASE WHEN $6 <= s.furthest THEN s.waiting_since END,
  waiting_for = CASE WHEN $6 <= s.furthest THEN s.waiting_for END
FROM jobs AS j
WHERE j.tenant = $1 AND j.id = $2 AND s.job = j.job AND s.number = $3 AND s.token = $4
  AND s.worker IS NOT NULL
RETURNING s.job;

-- name: held
-- Whether a lease is still the newest one (J14).
SELECT EXISTS (
  SELECT 1 FROM jobs AS j JOIN shards AS s ON s.job = j.job
  WHERE j.tenant = $1 AND j.id = $2 AND s.number = $3 AND s.token = $4 AND s.worker IS NOT NULL
);

-- name: release
-- Free a shard at once, without counting the attempt, and wake idle workers.
WITH freed AS (
  UPDATE shards AS s SET worker = NULL, resources_done = 0, available_at = '-infinity',
    attempts = s.attempts - 1, touched_at = clock_timestamp(), waiting_for = NULL
  FROM jobs AS j
  WHERE j.tenant = $1 AND j.id = $2 AND s.job = j.job AND s.number = $3 AND s.token = $4
    AND s.worker IS NOT NULL
  RETURNING s.job
)
SELECT job, pg_notify($5, '') FROM freed;

-- name: postpone
-- Free a shard after a pause, without counting the attempt, since a backend is down (J19).
UPDATE shards AS s SET worker = NULL, resources_done = 0, attempts = s.attempts - 1,
  available_at = clock_timestamp() + $5::interval, wait = $5::interval,
  touched_at = clock_timestamp(), postponed = s.postponed + 1,
  waiting_since = least(s.waiting_since, clock_timestamp()), waiting_for = $7
FROM jobs AS j
WHERE j.tenant = $1 AND j.id = $2 AND s.job = j.job AND s.number = $3 AND s.token = $4
  AND s.worker IS NOT NULL
  -- The clock is read once here: of two readings, the second is later than the first.
  AND $6::interval > greatest(clock_timestamp() - s.waiting_since, interval '0')
RETURNING s.job;

-- name: fail
-- Free a shard after a pause (J9).
UPDATE shards SET worker = NULL, resources_done = 0, last_error = $5, waiting_for = NULL,
  available_at = clock_timestamp() + $4::interval, wait = $4::interval,
  touched_at = clock_timestamp()
WHERE job = $1 AND number = $2 AND token = $3 AND worker IS NOT NULL
RETURNING attempts;

-- name: complete
-- Close a shard and publish its parts and notes (J5, J12, J13).
WITH closed AS (
  UPDATE shards SET done = true, worker = NULL, available_at = NULL, resources_done = $4,
    completed_under = token, bytes = $10, touched_at = clock_timestamp(), waiting_for = NULL,
    published = cardinality($9::text[]), noted = length($8::bytea)
  WHERE job = $1 AND number = $2 AND token = $3 AND worker IS NOT NULL
  RETURNING job, number, phase
), published AS (
  INSERT INTO parts (job, kind, shard, number, part, name, position)
  SELECT c.job, p.kind, c.number, p.number, p.part, p.name, p.place - 1 + (
    SELECT coalesce(max(position) + 1, 0) FROM parts WHERE job = $1
  )
  FROM closed AS c
  CROSS JOIN unnest($5::int[], $6::int[], $7::bytea[], $9::text[])
    WITH ORDINALITY AS p (kind, number, part, name, place)
), noted AS (
  INSERT INTO notes (job, shard, notes)
  SELECT job, number, $8::bytea FROM closed WHERE length($8::bytea) > 0
)
SELECT phase, (
  SELECT min(s.phase) FROM shards AS s WHERE s.job = $1 AND NOT s.done AND s.number <> $2
) AS next_phase
FROM closed;

-- name: lost
-- How many shards of a job are missing (J20).
SELECT j.shards - (SELECT count(*) FROM shards WHERE job = j.job) FROM jobs AS j WHERE j.job = $1;

-- name: completed_under
-- Whether a shard was completed under a token.
SELECT EXISTS (SELECT 1 FROM shards WHERE job = $1 AND number = $2 AND completed_under = $3);

-- name: end_job
-- Set the final status of a job.
UPDATE jobs SET status = $2, completed_at = clock_timestamp(), failure = $3
WHERE job = $1;

-- name: end_shards
-- Revoke the leases of a job's shards (J6), also if a damaged token cannot grow (J15).
UPDATE shards SET token = least(token, 9223372036854775806) + 1, worker = NULL,
  available_at = NULL, waiting_for = NULL
WHERE job = $1 AND NOT done;
