-- name: hold
-- Lock one open extent of each collection, if there is one that nobody else has locked.
-- FOR UPDATE is in the inner query, so that the LIMIT skips locked extents.
SELECT e.extent, e.appended, e.appended_bytes
FROM unnest($1::bigint[]) AS s (collection) CROSS JOIN LATERAL (
  SELECT extent, appended, appended_bytes FROM extents
  WHERE open AND extent >= s.collection << {EXTENT_NUMBER_BITS}
    AND extent < (s.collection + 1) << {EXTENT_NUMBER_BITS}
  ORDER BY extent LIMIT 1 FOR UPDATE SKIP LOCKED
) AS e;

-- name: numbers
-- Take numbers for new extents.
SELECT nextval('extent_numbers') FROM generate_series(1, $1);

-- name: add
-- Add the counts and sums of appended versions; check_sum is linear, so that it can be added too.
INSERT INTO extents (extent, appended, appended_bytes, begun, compartment_begun,
  compartment_bytes, open, begun_hash, compartment_hash, row_sum, index_sum, recent_sum,
  first_stamp, last_stamp, check_sum)
SELECT w.*, $8, $8, 3::bigint * w.appended + 5 * w.appended_bytes + 7 * w.begun
  + 11 * w.compartment_begun + 13 * w.compartment_bytes + (17 + 19) * $8::bigint
FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::integer[],
  $5::integer[], $6::bigint[], $7::boolean[], $9::bigint[], $10::bigint[], $11::bigint[],
  $12::bigint[], $13::bigint[])
  AS w (extent, appended, appended_bytes, begun, compartment_begun, compartment_bytes, open,
  begun_hash, compartment_hash, row_sum, index_sum, recent_sum)
ON CONFLICT (extent) DO UPDATE SET
  appended = extents.appended + excluded.appended,
  appended_bytes = extents.appended_bytes + excluded.appended_bytes,
  begun = extents.begun + excluded.begun,
  compartment_begun = extents.compartment_begun + excluded.compartment_begun,
  compartment_bytes = extents.compartment_bytes + excluded.compartment_bytes,
  begun_hash = (extents.begun_hash + excluded.begun_hash) & {SUM_MASK},
  compartment_hash = (extents.compartment_hash + excluded.compartment_hash) & {SUM_MASK},
  row_sum = (extents.row_sum + excluded.row_sum) & {SUM_MASK},
  index_sum = (extents.index_sum + excluded.index_sum) & {SUM_MASK},
  recent_sum = (extents.recent_sum + excluded.recent_sum) & {SUM_MASK},
  check_sum = extents.check_sum + excluded.check_sum - 17 * excluded.first_stamp
    - 19 * extents.last_stamp,
  open = excluded.open, last_stamp = excluded.last_stamp;

-- name: hold_tallies
-- Lock one tally of each extent, if there is one that nobody else has locked.
SELECT t.extent, t.tally FROM unnest($1::bigint[]) AS w (extent) CROSS JOIN LATERAL (
  SELECT extent, tally FROM tallies WHERE extent = w.extent
  LIMIT 1 FOR UPDATE SKIP LOCKED
) AS t;

-- name: count
-- Add the counts and sums of ended versions to locked tallies.
UPDATE tallies AS t SET ended = t.ended + w.ended, ended_bytes = t.ended_bytes + w.ended_bytes,
  compartment_ended = t.compartment_ended + w.compartment_ended,
  compartment_bytes = t.compartment_bytes + w.compartment_bytes,
  ended_hash = (t.ended_hash + w.ended_hash) & {SUM_MASK},
  compartment_hash = (t.compartment_hash + w.compartment_hash) & {SUM_MASK},
  row_sum = (t.row_sum + w.row_sum) & {SUM_MASK}
FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::integer[], $5::bigint[],
  $6::bigint[], $7::bigint[], $8::bigint[])
  AS w (tally, ended, ended_bytes, compartment_ended, compartment_bytes, ended_hash,
  compartment_hash, row_sum)
WHERE t.tally = w.tally;

-- name: count_anew
-- Add tallies for extents whose tallies are all locked by others.
INSERT INTO tallies (extent, ended, ended_bytes, compartment_ended, compartment_bytes, ended_hash,
  compartment_hash, row_sum)
SELECT * FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::integer[], $5::bigint[],
  $6::bigint[], $7::bigint[], $8::bigint[]);

-- name: ended
-- The line hashes and patients of some versions.
SELECT seq, line_hash, patients FROM versions WHERE seq = ANY ($1::bigint[]);
