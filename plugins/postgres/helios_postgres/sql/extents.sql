-- name: hold
-- Lock an extent with room for each of some collections.
-- FOR UPDATE belongs to the inner query: it is what skips an extent that somebody else is filling.
SELECT e.extent, e.appended, e.appended_bytes
FROM unnest($1::bigint[]) AS s (collection) CROSS JOIN LATERAL (
  SELECT extent, appended, appended_bytes FROM extents
  WHERE open AND extent >= s.collection << {EXTENT_NUMBER_BITS}
    AND extent < (s.collection + 1) << {EXTENT_NUMBER_BITS}
  ORDER BY extent LIMIT 1 FOR UPDATE SKIP LOCKED
) AS e;

-- name: numbers
-- Numbers for new extents.
SELECT nextval('extent_numbers') FROM generate_series(1, $1);

-- name: add
-- Add what was appended to extents.
INSERT INTO extents (extent, appended, appended_bytes, begun, compartment_begun,
  compartment_bytes, open, first_stamp, last_stamp)
SELECT w.*, $8, $8 FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::integer[],
  $5::integer[], $6::bigint[], $7::boolean[]) AS w
ON CONFLICT (extent) DO UPDATE SET
  appended = extents.appended + excluded.appended,
  appended_bytes = extents.appended_bytes + excluded.appended_bytes,
  begun = extents.begun + excluded.begun,
  compartment_begun = extents.compartment_begun + excluded.compartment_begun,
  compartment_bytes = extents.compartment_bytes + excluded.compartment_bytes,
  open = excluded.open, last_stamp = excluded.last_stamp;

-- name: hold_tallies
-- Lock a tally of each extent that has a free one.
SELECT t.extent, t.tally FROM unnest($1::bigint[]) AS w (extent) CROSS JOIN LATERAL (
  SELECT extent, tally FROM tallies WHERE extent = w.extent
  LIMIT 1 FOR UPDATE SKIP LOCKED
) AS t;

-- name: count
-- Add what ended to tallies that are held.
UPDATE tallies AS t SET ended = t.ended + w.ended, ended_bytes = t.ended_bytes + w.ended_bytes,
  compartment_ended = t.compartment_ended + w.compartment_ended,
  compartment_bytes = t.compartment_bytes + w.compartment_bytes
FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::integer[], $5::bigint[])
  AS w (tally, ended, ended_bytes, compartment_ended, compartment_bytes)
WHERE t.tally = w.tally;

-- name: count_anew
-- Add tallies for extents whose tallies others hold.
INSERT INTO tallies (extent, ended, ended_bytes, compartment_ended, compartment_bytes)
SELECT * FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::integer[], $5::bigint[]);
