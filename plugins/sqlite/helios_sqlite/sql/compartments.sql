-- fragment: mark
-- What `mark_of` is of.
v.seq || ' ' || v.id || ' ' || v.version_id || ' ' || v.since_stamp || ' ' || v.deleted || ' '
  || v.patients || ' ' || v.size || ' ' || v.line_hash,
v.seq, v.until_stamp

-- name: add
-- Add to what a patient must have in a block.
INSERT INTO compartment_sums VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET sum = (sum + excluded.sum) & {SUM_MASK};

-- name: clear_picked
-- Empty the reader's picked seqs.
DELETE FROM picked;

-- name: pick
-- Note the seqs of the cohort's versions once, so that batches can follow each other.
INSERT INTO picked (seq, times)
SELECT c.seq, 1 FROM cohort AS k CROSS JOIN compartments AS c
ON c.collection = :collection AND c.patient = k.patient
WHERE c.seq >= :first AND c.seq < :end
ON CONFLICT (seq) DO UPDATE SET times = times + 1;

-- name: expected
-- What the cohort must have in some blocks, and what is lost of them, in two halves.
SELECT coalesce(sum(s.sum >> 31), 0), coalesce(sum(s.sum & 2147483647), 0)
FROM (SELECT patient FROM cohort UNION ALL SELECT '') AS k
CROSS JOIN compartment_sums AS s
ON s.patient = k.patient AND s.block BETWEEN ? AND ?;

-- name: picked_marks
-- What is stored of the versions that were picked, and in how many compartments of the cohort.
SELECT p.times, {mark}
FROM picked AS p CROSS JOIN versions AS v ON v.seq = p.seq;

-- fragment: unsummed
-- That somebody, `k`, was stored as a Patient, and must have nothing.
NOT EXISTS (
  SELECT 1 FROM compartment_sums AS s
  WHERE s.patient = k.patient AND s.block BETWEEN :first AND :last
) AND EXISTS (
  SELECT 1 FROM versions AS v WHERE v.collection = :patients AND v.id = k.patient
)

-- name: unsummed_patient
-- Whether there is a patient of the cohort who was stored, and must have nothing.
SELECT EXISTS (SELECT 1 FROM cohort AS k WHERE {unsummed});

-- name: any_unsummed
-- Whether any of some patients was stored, and must have nothing.
SELECT EXISTS (
  SELECT 1 FROM (SELECT value AS patient FROM json_each(:ids)) AS k WHERE {unsummed}
);

-- name: any_expected
-- Whether any of some patients must have anything in some blocks, or something is lost of them.
SELECT EXISTS (
  SELECT 1 FROM (SELECT value FROM json_each(:ids) UNION ALL SELECT '') AS p
  CROSS JOIN compartment_sums AS s
  ON s.patient = p.value AND s.block BETWEEN :first AND :last
);

-- name: unpick
-- Forget the picked seqs of a range.
DELETE FROM picked WHERE seq >= ? AND seq < ?;

-- name: pick_one
-- Pick a seq.
INSERT INTO picked VALUES (?, 1);

-- name: extents
-- All extents.
SELECT extent FROM extents ORDER BY extent;

-- name: marks
-- What is stored of the versions of an extent that are in compartments.
SELECT v.patients, {mark}
FROM versions AS v WHERE v.seq BETWEEN ? AND ? AND v.patients <> '';
