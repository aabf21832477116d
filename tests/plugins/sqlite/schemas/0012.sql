-- What each patient must have in a block of four extents: the sum of the marks of all versions in
-- its compartment there, and of their endings, modulo 2^62. The collection is in the upper bits of
-- block. What is about nobody (the empty patient) says that the versions of a block were already
-- damaged when the sums were made.
CREATE TABLE compartment_sums (
  patient TEXT NOT NULL,
  block INTEGER NOT NULL,
  sum INTEGER NOT NULL,
  PRIMARY KEY (patient, block)
) STRICT, WITHOUT ROWID;
