-- name: last
-- The extent of a collection that is being filled.
SELECT extent, appended, appended_bytes FROM extents
WHERE extent BETWEEN ? AND ? ORDER BY extent DESC LIMIT 1;

-- name: add
-- Add what a transaction appended to an extent and ended in it.
INSERT INTO extents VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (extent) DO UPDATE SET
  appended = appended + excluded.appended,
  appended_bytes = appended_bytes + excluded.appended_bytes,
  live = live + excluded.live,
  live_bytes = live_bytes + excluded.live_bytes,
  compartment_live = compartment_live + excluded.compartment_live,
  compartment_bytes = compartment_bytes + excluded.compartment_bytes;
