-- name: patience
-- Set how long the transaction waits for a lock.
SELECT set_config('lock_timeout', $1, true);

-- name: write_stamp
-- Return the stamp of a write; until its transaction ends, no stamp can be settled.
SELECT write_stamp($1, $2);

-- name: settled_stamp
-- Wait for all open writes, then return a stamp (P1).
SELECT settled_stamp($1, $2);
