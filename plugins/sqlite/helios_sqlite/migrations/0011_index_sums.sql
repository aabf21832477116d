-- What must be in the search index of an extent: for each bucket of its postings (part 0), and each
-- kind of its spans (part 1), the sum of a mark of each row, modulo 2^62.
CREATE TABLE index_sums (
  extent INTEGER NOT NULL,
  part INTEGER NOT NULL,
  bucket INTEGER NOT NULL,
  sum INTEGER NOT NULL,
  PRIMARY KEY (extent, part, bucket)
) STRICT, WITHOUT ROWID;

-- The sum of these sums guards them.
ALTER TABLE extents ADD COLUMN index_sum INTEGER NOT NULL DEFAULT 0;

-- What is indexed already has no sums: the index is made anew.
UPDATE search_index SET terms_version = 0;
