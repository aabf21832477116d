-- The public file name of a part, by which a download finds it. A damaged one gets a name that no
-- other has.
ALTER TABLE parts ADD COLUMN name text;

CREATE FUNCTION pg_temp.key_of(part bytea) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
  RETURN convert_from(part, 'UTF8')::json -> 'key';
EXCEPTION WHEN OTHERS THEN
  RETURN NULL;
END
$$;

UPDATE parts AS p SET name = CASE p.kind WHEN 0 THEN '' ELSE (k.key ->> 'kind') || '-' END
  || (k.key ->> 'resource_type') || '-' || (k.key ->> 'ordinal') || '-' || p.number || '.ndjson'
FROM (SELECT job, kind, shard, number, pg_temp.key_of(part) AS key FROM parts) AS k
WHERE (p.job, p.kind, p.shard, p.number) = (k.job, k.kind, k.shard, k.number);

UPDATE parts SET name = 'unreadable-' || kind || '-' || shard || '-' || number
WHERE name IS NULL
  OR (job, name) IN (SELECT job, name FROM parts GROUP BY job, name HAVING count(*) > 1);

DROP FUNCTION pg_temp.key_of;

ALTER TABLE parts ALTER COLUMN name SET NOT NULL;

CREATE UNIQUE INDEX parts_by_name ON parts (job, name);

-- How long a lease or the pause after a failure lasts in all. If more of it is left than there is,
-- the clock was set back. Of leases from before, what is left counts as all.
ALTER TABLE shards ADD COLUMN wait interval NOT NULL DEFAULT '0';

UPDATE shards SET wait = greatest(available_at - now(), '0') WHERE isfinite(available_at);
