-- What must be in an extent, so that reading notices what is missing or is not what was written.
-- The hashes are sums of line_hash over what the counts count, row_sum is that of a hash over each
-- version or ending, all modulo 2^62. check_sum is a linear function of the other columns: it
-- guards them. NULL, in extents begun before, is not known.
ALTER TABLE extents
  ADD COLUMN begun_hash bigint,
  ADD COLUMN compartment_hash bigint,
  ADD COLUMN row_sum bigint,
  ADD COLUMN check_sum bigint;

ALTER TABLE tallies
  ADD COLUMN ended_hash bigint NOT NULL DEFAULT 0,
  ADD COLUMN compartment_hash bigint NOT NULL DEFAULT 0,
  ADD COLUMN row_sum bigint NOT NULL DEFAULT 0;
