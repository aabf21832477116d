-- What the search index was made by; 0 is nobody yet.
CREATE TABLE search_index (
  terms_version INTEGER NOT NULL
) STRICT;

INSERT INTO search_index VALUES (0);

-- Which versions of an extent have a term, by their place in it. A row holds those that came in
-- one transaction: the first place, and the others as two bytes each. The extent comes first, so
-- that what is written is written in one spot, however large the index has become.
CREATE TABLE postings (
  extent INTEGER NOT NULL,
  term INTEGER NOT NULL,
  place INTEGER NOT NULL,
  more BLOB,
  PRIMARY KEY (extent, term, place)
) STRICT, WITHOUT ROWID;

-- The spans of time in the versions of an extent, in microseconds since 1970.
CREATE TABLE spans (
  extent INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  low INTEGER NOT NULL,
  high INTEGER NOT NULL,
  place INTEGER NOT NULL,
  PRIMARY KEY (extent, kind, low, high, place)
) STRICT, WITHOUT ROWID;

-- A shard waits for those of the earlier phases of its job.
ALTER TABLE shards ADD COLUMN phase INTEGER NOT NULL DEFAULT 0;

DROP INDEX shards_open;

CREATE INDEX shards_open ON shards (job, phase, number, available_at) WHERE done = 0;
