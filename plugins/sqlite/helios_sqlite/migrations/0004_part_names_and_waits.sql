-- The public file name of a part, by which a download finds it.
ALTER TABLE parts ADD COLUMN name TEXT NOT NULL DEFAULT '';

UPDATE parts SET name =
  iif(kind = 0, '', json_extract(CAST(part AS TEXT), '$.key.kind') || '-')
    || json_extract(CAST(part AS TEXT), '$.key.resource_type')
    || '-' || json_extract(CAST(part AS TEXT), '$.key.ordinal') || '-' || number || '.ndjson';

CREATE UNIQUE INDEX parts_by_name ON parts (job, name);

-- How many milliseconds a lease or the pause after a failure lasts in all. If more of it is left
-- than there is, the clock was set back. Of leases from before, what is left counts as all.
ALTER TABLE shards ADD COLUMN wait INTEGER NOT NULL DEFAULT 0;

UPDATE shards SET wait =
  max(0, available_at - CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER))
WHERE available_at IS NOT NULL;
