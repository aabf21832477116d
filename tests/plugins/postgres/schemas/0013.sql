-- What each patient must have in a block of four extents: the sum of the marks of all versions in
-- its compartment there, and of their endings, modulo 2^62. Each transaction adds rows of its own, so
-- that writers do not wait for each other. The collection is in the upper bits of block. What is
-- about nobody (the empty patient) says that the versions of a block were already damaged when the
-- sums were made.
CREATE TABLE compartment_sums (
  block bigint NOT NULL,
  sum bigint NOT NULL,
  patient text COLLATE "C" NOT NULL
);

CREATE INDEX compartment_sums_by_patient ON compartment_sums (patient, block) INCLUDE (sum);
