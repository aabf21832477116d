-- name: remember
-- Make a stamp the last one handed out.
UPDATE clock SET last_stamp = ?;

-- name: last_stamp
-- The last stamp handed out.
SELECT last_stamp FROM clock;
