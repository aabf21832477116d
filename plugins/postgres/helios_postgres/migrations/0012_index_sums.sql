-- What must be in the search index of an extent: for each bucket of its postings (part 0), and each
-- kind of its spans (part 1), the sum of a mark of each row, modulo 2^62.
CREATE TABLE index_sums (
  extent bigint NOT NULL,
  part smallint NOT NULL,
  bucket bigint NOT NULL,
  sum bigint NOT NULL,
  PRIMARY KEY (extent, part, bucket)
);

-- The sum of these sums guards them; recent_sum is that of the marks of what is recent.
ALTER TABLE extents
  ADD COLUMN index_sum bigint NOT NULL DEFAULT 0,
  ADD COLUMN recent_sum bigint NOT NULL DEFAULT 0;

-- What is indexed already has no marks and no sums: the index is made anew.
TRUNCATE postings, spans, recent_terms;
UPDATE search_index SET terms_version = 0;
ALTER TABLE spans
  ADD COLUMN places_mark bigint NOT NULL,
  ADD COLUMN content_mark bigint NOT NULL;
