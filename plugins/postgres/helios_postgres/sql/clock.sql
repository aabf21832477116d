-- name: patience
-- How long a transaction waits for a lock.
SELECT set_config('lock_timeout', $1, true);

-- name: write_stamp
-- The stamp of a write; until it ends, no export can settle on an instant.
SELECT write_stamp($1, $2);

-- name: settled_stamp
-- An instant that every write under way has been waited for (P1).
SELECT settled_stamp($1, $2);
