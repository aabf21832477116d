-- What the search index was made by; 0 is nobody yet.
CREATE TABLE search_index (
  terms_version integer NOT NULL
);

INSERT INTO search_index VALUES (0);

-- Which versions of an extent have a term, by their place in it. The terms are divided into
-- buckets by their number, and a row holds what one transaction adds to a bucket, packed: for each
-- term there would otherwise be a row, and a row takes more room than all that it says.
CREATE TABLE postings (
  extent bigint NOT NULL,
  bucket smallint NOT NULL,
  content bytea NOT NULL
);

CREATE INDEX postings_by_extent ON postings (extent, bucket);

-- The spans of time in the versions of an extent, in microseconds since 1970, packed in the order
-- of their beginnings; and within which bounds those of a row are, so that most rows need not be
-- unpacked.
CREATE TABLE spans (
  extent bigint NOT NULL,
  kind bigint NOT NULL,
  low_min bigint NOT NULL,
  low_max bigint NOT NULL,
  high_min bigint NOT NULL,
  high_max bigint NOT NULL,
  places bytea NOT NULL,
  content bytea NOT NULL
);

CREATE INDEX spans_by_extent ON spans (extent, kind);

-- What small transactions added to an extent, all of it in one row each, until there is enough of
-- it for `postings` and `spans`. These rows come and go, so that the large tables are never
-- deleted from; there are at most a few hundred for each extent that is being filled.
CREATE TABLE recent_terms (
  extent bigint NOT NULL,
  content bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.5);

CREATE INDEX recent_terms_by_extent ON recent_terms (extent);
