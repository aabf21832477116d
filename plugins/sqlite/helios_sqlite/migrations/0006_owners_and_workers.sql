-- Who requested a job, empty on an open server; the list of jobs is restricted by it.
ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT '';

CREATE INDEX jobs_listed ON jobs (created_at DESC, tenant, id);
CREATE INDEX jobs_of_tenant ON jobs (tenant, created_at DESC, id);

-- When a worker last claimed, renewed or ended a lease of the shard. Nobody knows it of shards from
-- before: those of active jobs count as touched now, so that no export ends too early.
ALTER TABLE shards ADD COLUMN touched_at INTEGER;

UPDATE shards SET touched_at = CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)
WHERE job IN (SELECT job FROM jobs WHERE status IN ('accepted', 'in-progress'));

-- Bytes at rest of the parts that the shard has published.
ALTER TABLE shards ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;

UPDATE shards SET bytes = (
  SELECT coalesce(sum(iif(
    json_valid(CAST(p.part AS TEXT)),
    min(CAST(json_extract(CAST(p.part AS TEXT), '$.size') AS INTEGER), 1 << 50), 0
  )), 0)
  FROM parts AS p
  WHERE p.job = shards.job AND p.shard = shards.number
)
WHERE done = 1;

-- Until when a worker counts as alive, and how many milliseconds that was from its last report. If
-- more of it is left than there is, the clock was set back.
CREATE TABLE workers (
  worker TEXT PRIMARY KEY,
  until INTEGER NOT NULL,
  wait INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
