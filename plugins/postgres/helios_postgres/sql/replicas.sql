-- name: as_export
-- Set a transaction up for reading at length.
-- Versions lie in the order of their seqs, in which they are read. Until a table is analysed the
-- planner cannot know that, and many small scans of bitmaps took five times as long as its index.
SELECT set_config('statement_timeout', '0', true), set_config('enable_seqscan', 'off', true),
  set_config('enable_bitmapscan', 'off', true);

-- name: replayed
-- Whether a replica shows all that was committed before an instant.
SELECT last_value >= $1 FROM clock;
