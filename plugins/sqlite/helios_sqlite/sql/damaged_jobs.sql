-- name: keys
-- The keys of all jobs, from an index alone.
SELECT job, tenant, id FROM jobs INDEXED BY jobs_listed;

-- name: turns
-- Read the whole table of turns.
SELECT max(served) FROM turns;

-- name: workers
-- Read the whole table of workers.
SELECT max(until + wait) FROM workers;

-- name: damaged
-- The columns of a damaged job that an index has, in the form of the list of jobs.
SELECT job, x'', tenant, id, '', 'unknown', created_at, NULL, NULL, NULL, 0, 0, 0, 0, NULL, 0, 0, NULL
FROM jobs INDEXED BY jobs_listed
WHERE job = :job AND (:tenant IS NULL OR tenant = :tenant)
  AND :owner IS NULL AND :statuses IS NULL
  AND substr(id, 1, length(:id_prefix)) = :id_prefix
  AND (:older_than IS NULL OR created_at <= {now} - :older_than)
  AND (:younger_than IS NULL OR created_at > {now} - :younger_than)
  AND (:after_at IS NULL OR created_at < :after_at
    OR created_at = :after_at AND (tenant, id) > (:after_tenant, :after_id));
