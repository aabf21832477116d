-- fragment: there
-- The condition that a record has not expired.
(expires_at IS NULL OR expires_at > now())

-- name: insert
-- Store a record unless one exists that has not expired; remove some other expired records.
WITH expired AS (
  SELECT namespace, key FROM records
  WHERE expires_at <= now() AND (namespace, key) <> ($1, $2)
  LIMIT 16 FOR UPDATE SKIP LOCKED
), removed AS (
  DELETE FROM records AS r USING expired AS e WHERE (r.namespace, r.key) = (e.namespace, e.key)
)
INSERT INTO records AS r (namespace, key, value, expires_at)
VALUES ($1, $2, $3, now() + $4::interval)
ON CONFLICT (namespace, key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at
WHERE r.expires_at <= now()
RETURNING true;

-- name: replace
-- Change a record if it has the expected value.
UPDATE records SET value = $4
WHERE namespace = $1 AND key = $2 AND value = $3 AND {there}
RETURNING true;

-- name: get
-- The value of a record.
SELECT value FROM records WHERE namespace = $1 AND key = $2 AND {there};

-- name: page
-- The first records after a key.
SELECT key, value FROM records
WHERE namespace = $1 AND key > $2 AND {there}
ORDER BY key LIMIT $3;

-- name: delete
-- Delete a record.
DELETE FROM records WHERE namespace = $1 AND key = $2 AND {there}
RETURNING true;
