-- What completed shards noted for those of later phases; `notes` can be megabytes.
CREATE TABLE notes (
  job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
  shard INTEGER NOT NULL,
  notes BLOB NOT NULL,
  PRIMARY KEY (job, shard)
) STRICT;

-- Notes were parts of kind 3 before, and what they say is in files that are out of reach here. An
-- active job that has some begins anew; but pages of a manifest already shown cannot be taken back.
UPDATE jobs SET status = 'error',
  completed_at = CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER),
  failure = 'the server was upgraded while this export ran; start a new one'
WHERE status IN ('accepted', 'in-progress')
  AND iif(
    json_valid(CAST(accepted AS TEXT)),
    json_extract(CAST(accepted AS TEXT), '$.request.partial_manifests'), 0
  )
  AND job IN (SELECT job FROM parts WHERE kind = 3);

UPDATE shards SET token = token + 1, worker = NULL, available_at = NULL
WHERE job IN (SELECT job FROM jobs WHERE status = 'error');

UPDATE shards SET done = 0, resources_done = 0, worker = NULL, available_at = 0, attempts = 0,
  token = token + 1
WHERE job IN (
  SELECT j.job FROM jobs AS j JOIN parts AS p ON p.job = j.job
  WHERE j.status IN ('accepted', 'in-progress') AND p.kind = 3
);

DELETE FROM parts WHERE job IN (
  SELECT j.job FROM jobs AS j JOIN parts AS p ON p.job = j.job
  WHERE j.status IN ('accepted', 'in-progress') AND p.kind = 3
);

DELETE FROM parts WHERE kind = 3;
