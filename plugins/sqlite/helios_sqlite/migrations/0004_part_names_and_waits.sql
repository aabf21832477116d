-- The public file name of a part, by which a download finds it. A damaged one gets a name that no
-- other has.
ALTER TABLE parts ADD COLUMN name TEXT NOT NULL DEFAULT '';

UPDATE parts SET name = iif(kind = 0, '', json_extract(CAST(part AS TEXT), '$.key.kind') || '-')
  || json_extract(CAST(part AS TEXT), '$.key.resource_type')
  || '-' || json_extract(CAST(part AS TEXT), '$.key.ordinal') || '-' || number || '.ndjson'
WHERE iif(
  json_valid(CAST(part AS TEXT)),
  json_extract(CAST(part AS TEXT), '$.key.kind') IS NOT NULL
    AND json_extract(CAST(part AS TEXT), '$.key.resource_type') IS NOT NULL
    AND json_extract(CAST(part AS TEXT), '$.key.ordinal') IS NOT NULL,
  0
);

UPDATE parts SET name = 'unreadable-' || kind || '-' || shard || '-' || number
WHERE name = ''
  OR (job, name) IN (SELECT job, name FROM parts GROUP BY job, name HAVING count(*) > 1);

CREATE UNIQUE INDEX parts_by_name ON parts (job, name);

-- How many milliseconds a lease or the pause after a failure lasts in all. If more of it is left
-- than there is, the clock was set back. Of leases from before, what is left counts as all.
ALTER TABLE shards ADD COLUMN wait INTEGER NOT NULL DEFAULT 0;

UPDATE shards SET wait =
  max(0, available_at - CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER))
WHERE available_at IS NOT NULL;
