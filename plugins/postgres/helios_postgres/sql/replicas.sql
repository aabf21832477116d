-- name: as_export
-- Prepare a transaction for long reads by index.
-- Versions are stored in the order of seqs, in which they are read. Until the table is analysed,
-- the planner does not know that, and its many small bitmap scans took five times as long.
SELECT set_config('statement_timeout', '0', true), set_config('enable_seqscan', 'off', true),
  set_config('enable_bitmapscan', 'off', true);

-- name: replayed
-- Whether a replica has all that was committed up to a stamp.
SELECT last_value >= $1 FROM clock;
