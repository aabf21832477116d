-- What must be in an extent, so that reading notices what is missing or is not what was written.
-- live_hash and compartment_hash are the sums of line_hash over what live and compartment_live
-- count, row_sum that of a hash over each version and each ending, all modulo 2^62. check_sum is a
-- linear function of the counts: it guards them. NULL, in extents begun before, is not known.
ALTER TABLE extents ADD COLUMN live_hash INTEGER;
ALTER TABLE extents ADD COLUMN compartment_hash INTEGER;
ALTER TABLE extents ADD COLUMN row_sum INTEGER;
ALTER TABLE extents ADD COLUMN check_sum INTEGER;
