-- The public file name of a part, by which a download finds it.
CREATE TABLE named_parts (
  job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
  kind INTEGER NOT NULL,
  shard INTEGER NOT NULL,
  number INTEGER NOT NULL,
  part BLOB NOT NULL,
  name TEXT NOT NULL,
  PRIMARY KEY (job, kind, shard, number)
) STRICT, WITHOUT ROWID;

INSERT INTO named_parts SELECT job, kind, shard, number, part,
  iif(kind = 0, '', json_extract(CAST(part AS TEXT), '$.key.kind') || '-')
    || json_extract(CAST(part AS TEXT), '$.key.resource_type')
    || '-' || json_extract(CAST(part AS TEXT), '$.key.ordinal') || '-' || number || '.ndjson'
FROM parts;

DROP TABLE parts;
ALTER TABLE named_parts RENAME TO parts;

CREATE UNIQUE INDEX parts_by_name ON parts (job, name);

-- How many milliseconds a lease or the pause after a failure lasts in all. If more of it is left
-- than there is, the clock was set back.
ALTER TABLE shards ADD COLUMN wait INTEGER NOT NULL DEFAULT 0;

UPDATE shards SET wait = 3600000 WHERE available_at > 0;
