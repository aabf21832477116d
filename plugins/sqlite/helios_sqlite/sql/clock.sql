-- name: remember
-- Store the last stamp.
UPDATE clock SET last_stamp = ?;

-- name: last_stamp
-- The last stamp.
SELECT last_stamp FROM clock;
