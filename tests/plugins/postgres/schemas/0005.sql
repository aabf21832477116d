-- The public file name of a part, by which a download finds it.
ALTER TABLE parts ADD COLUMN name text;

UPDATE parts AS p SET name = CASE p.kind WHEN 0 THEN '' ELSE (k.key ->> 'kind') || '-' END
  || (k.key ->> 'resource_type') || '-' || (k.key ->> 'ordinal') || '-' || p.number || '.ndjson'
FROM (
  SELECT job, kind, shard, number, convert_from(part, 'UTF8')::json -> 'key' AS key FROM parts
) AS k
WHERE (p.job, p.kind, p.shard, p.number) = (k.job, k.kind, k.shard, k.number);

ALTER TABLE parts ALTER COLUMN name SET NOT NULL;

CREATE UNIQUE INDEX parts_by_name ON parts (job, name);

-- How long a lease or the pause after a failure lasts in all. If more of it is left than there is,
-- the clock was set back. Of leases from before, what is left counts as all.
ALTER TABLE shards ADD COLUMN wait interval NOT NULL DEFAULT '0';

UPDATE shards SET wait = greatest(available_at - now(), '0') WHERE available_at > '-infinity';
