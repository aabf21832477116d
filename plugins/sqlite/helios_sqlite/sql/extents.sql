-- name: last
-- The last extent of a collection, which is being filled.
SELECT extent, appended, appended_bytes FROM extents
WHERE extent BETWEEN ? AND ? ORDER BY extent DESC LIMIT 1;

-- name: add
-- Add the changes of a transaction to an extent; check_sum is linear, so that it can be added too.
INSERT INTO extents (extent, first_stamp, appended, appended_bytes, live, live_bytes,
  compartment_live, compartment_bytes, live_hash, compartment_hash, row_sum, check_sum)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (extent) DO UPDATE SET
  appended = appended + excluded.appended,
  appended_bytes = appended_bytes + excluded.appended_bytes,
  live = live + excluded.live,
  live_bytes = live_bytes + excluded.live_bytes,
  compartment_live = compartment_live + excluded.compartment_live,
  compartment_bytes = compartment_bytes + excluded.compartment_bytes,
  live_hash = (live_hash + excluded.live_hash) & {SUM_MASK},
  compartment_hash = (compartment_hash + excluded.compartment_hash) & {SUM_MASK},
  row_sum = (row_sum + excluded.row_sum) & {SUM_MASK},
  check_sum = check_sum + excluded.check_sum;
