-- name: last_extent_from
-- The last extent that was begun at or before a stamp.
SELECT extent, appended FROM extents
WHERE extent BETWEEN ? AND ? AND first_stamp <= ? ORDER BY extent DESC LIMIT 1;

-- name: stamp_at
-- The stamp at which a version became current.
SELECT since_stamp FROM versions WHERE seq = ?;
