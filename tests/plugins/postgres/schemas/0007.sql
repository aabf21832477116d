-- Who requested a job, empty on an open server; the list of jobs is restricted by it.
ALTER TABLE jobs ADD COLUMN owner text NOT NULL DEFAULT '';

CREATE INDEX jobs_listed ON jobs (created_at DESC, tenant, id);
CREATE INDEX jobs_of_tenant ON jobs (tenant, created_at DESC, id);

-- When a worker last claimed, renewed or ended a lease of the shard. Nobody knows it of shards from
-- before: those of active jobs count as touched now, so that no export ends too early.
ALTER TABLE shards ADD COLUMN touched_at timestamptz;

UPDATE shards SET touched_at = now()
WHERE job IN (SELECT job FROM jobs WHERE status IN ('accepted', 'in-progress'));

-- Bytes at rest of the parts that the shard has published; nobody knows those of a damaged part.
ALTER TABLE shards ADD COLUMN bytes bigint NOT NULL DEFAULT 0;

CREATE FUNCTION pg_temp.size_of(part bytea) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
  RETURN least((convert_from(part, 'UTF8')::json ->> 'size')::bigint, 1::bigint << 50);
EXCEPTION WHEN OTHERS THEN
  RETURN 0;
END
$$;

UPDATE shards AS s SET bytes = coalesce(p.bytes, 0)
FROM (SELECT job, shard, sum(pg_temp.size_of(part)) AS bytes FROM parts GROUP BY job, shard) AS p
WHERE s.job = p.job AND s.number = p.shard;

DROP FUNCTION pg_temp.size_of;

-- Until when a worker counts as alive, and how long that was from its last report. If more of it is
-- left than there is, the clock was set back.
CREATE TABLE workers (
  worker text PRIMARY KEY,
  until timestamptz NOT NULL,
  wait interval NOT NULL
);
