-- name: extents
-- The extents that may hold something of a view.
SELECT extent FROM extents WHERE extent BETWEEN $1 AND $2
AND first_stamp <= $3 AND last_stamp > $4 AND first_stamp < $5 ORDER BY extent;
