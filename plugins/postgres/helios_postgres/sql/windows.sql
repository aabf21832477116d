-- name: extents
-- The extents that may hold something of a view, and their sizes.
-- An extent is skipped if none of its stamps can be of the view.
SELECT extent, appended, appended_bytes FROM extents
WHERE extent BETWEEN $1 AND $2 AND first_stamp <= $3 AND last_stamp > $4 AND first_stamp < $5
ORDER BY extent;
