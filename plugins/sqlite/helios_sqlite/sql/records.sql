-- fragment: there
-- That the time of a record is not over.
(expires_at IS NULL OR expires_at > {now})

-- name: remove_expired
-- Remove all records whose time is over.
DELETE FROM records WHERE expires_at <= {now};

-- name: insert
-- Store a record where none is.
INSERT INTO records (namespace, key, value, expires_at)
VALUES (?, ?, ?, {now} + ?)
ON CONFLICT DO NOTHING
RETURNING key;

-- name: replace
-- Change a record that has the expected value.
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
