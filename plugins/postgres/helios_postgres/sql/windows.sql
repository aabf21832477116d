-- name: extents
-- The extents that may have something that a view shows, by their stamps, and their sizes.
SELECT extent, appended, appended_bytes FROM extents
WHERE extent BETWEEN $1 AND $2 AND first_stamp <= $3 AND last_stamp > $4 AND first_stamp < $5
ORDER BY extent;
