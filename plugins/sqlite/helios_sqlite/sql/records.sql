-- fragment: there
-- The condition that a record has not expired.
(expires_at IS NULL OR expires_at > {now})

-- name: remove_expired
-- Delete all expired records.
DELETE FROM records WHERE expires_at <= {now};

-- name: insert
-- Store a record unless one exists.
INSERT INTO records (namespace, key, value, expires_at)
VALUES (?, ?, ?, {now} + ?)
ON CONFLICT DO NOTHING
RETURNING key;

-- name: replace
-- Change a record if it has the expected value.
UPDATE records SET value = ?
WHERE namespace = ? AND key = ? AND value = ? AND {there}
RETURNING key;

-- name: get
-- The value of a record.
SELECT value FROM records WHERE namespace = ? AND key = ? AND {there};

-- name: page
-- The first records after a key.
SELECT key, value FROM records
WHERE namespace = ? AND key > ? AND {there}
ORDER BY key LIMIT ?;

-- name: delete
-- Delete a record.
DELETE FROM records WHERE namespace = ? AND key = ? AND {there}
RETURNING key;
