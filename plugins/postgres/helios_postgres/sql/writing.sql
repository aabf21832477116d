-- name: patience
-- Limit how long a write waits for locks, but not its work.
-- A load may take longer than the statement timeout.
SELECT set_config('lock_timeout', current_setting('statement_timeout'), true),
  set_config('statement_timeout', '0', true);

-- name: lock_heads
-- Lock the heads of some resources, in one order.
SELECT r.collection, r.id, r.seq, r.since_stamp, r.content_hash, r.version_id, r.size, r.deleted,
  r.in_compartment
FROM unnest($1::integer[], $2::text[]) AS w (collection, id)
JOIN resources AS r ON r.collection = w.collection AND r.id = w.id
ORDER BY r.collection, r.id FOR NO KEY UPDATE OF r;

-- name: patients
-- The patients of some versions.
SELECT seq, patients
FROM versions
WHERE seq = ANY($1::bigint[]);

-- name: move_heads
-- Set the heads of some resources to their new versions.
UPDATE resources AS r SET seq = w.seq, since_stamp = $8, content_hash = w.content_hash,
  version_id = w.version_id, size = w.size, deleted = w.deleted, in_compartment = w.in_compartment
FROM unnest($1::integer[], $2::text[], $3::bigint[], $4::bigint[], $5::integer[], $6::integer[],
  $7::boolean[], $9::boolean[])
  AS w (collection, id, seq, content_hash, version_id, size, deleted, in_compartment)
WHERE r.collection = w.collection AND r.id = w.id;
