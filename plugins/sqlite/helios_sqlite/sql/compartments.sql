-- fragment: mark
-- The arguments of `_mark`.
v.seq || ' ' || v.id || ' ' || v.version_id || ' ' || v.since_stamp || ' ' || v.deleted || ' '
  || v.patients || ' ' || v.size || ' ' || v.line_hash,
v.seq, v.until_stamp

-- name: add
-- Add to the sum of a patient in a block.
INSERT INTO compartment_sums VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET sum = (sum + excluded.sum) & {SUM_MASK};

-- name: clear_picked
-- Empty the reader's table `picked`.
DELETE FROM picked;

-- name: pick
-- Pick the seqs of the cohort's versions, once for all batches.
INSERT INTO picked (seq, times)
SELECT c.seq, 1 FROM cohort AS k CROSS JOIN compartments AS c
ON c.collection = :collection AND c.patient = k.patient
WHERE c.seq >= :first AND c.seq < :end
ON CONFLICT (seq) DO UPDATE SET times = times + 1;

-- name: expected
-- The expected sum of the cohort in some blocks, in two halves; patient '' marks damaged blocks.
SELECT coalesce(sum(s.sum >> 31), 0), coalesce(sum(s.sum & 2147483647), 0)
FROM (SELECT patient FROM cohort UNION ALL SELECT '') AS k
CROSS JOIN compartment_sums AS s
ON s.patient = k.patient AND s.block BETWEEN ? AND ?;

-- name: picked_marks
-- The marks of the picked versions, and in how many compartments of the cohort each is.
SELECT p.times, {mark}
FROM picked AS p CROSS JOIN versions AS v ON v.seq = p.seq;

-- fragment: unsummed
-- The condition that a patient `k` is stored and has no sums.
NOT EXISTS (
  SELECT 1 FROM compartment_sums AS s
  WHERE s.patient = k.patient AND s.block BETWEEN :first AND :last
) AND EXISTS (
  SELECT 1 FROM versions AS v WHERE v.collection = :patients AND v.id = k.patient
)

-- name: unsummed_patient
-- Whether a stored patient of the cohort has no sums.
SELECT EXISTS (SELECT 1 FROM cohort AS k WHERE {unsummed});

-- name: any_unsummed
-- Whether any of these patients is stored without sums.
SELECT EXISTS (
  SELECT 1 FROM (SELECT value AS patient FROM json_each(:ids)) AS k WHERE {unsummed}
);

-- name: any_expected
-- Whether any of these patients has sums in some blocks, or a block is damaged.
SELECT EXISTS (
  SELECT 1 FROM (SELECT value FROM json_each(:ids) UNION ALL SELECT '') AS p
  CROSS JOIN compartment_sums AS s
  ON s.patient = p.value AND s.block BETWEEN :first AND :last
);

-- name: unpick
-- Remove the picked seqs of a range.
DELETE FROM picked WHERE seq >= ? AND seq < ?;

-- name: pick_one
-- Pick a seq.
INSERT INTO picked VALUES (?, 1);

-- name: extents
-- All extents.
SELECT extent FROM extents ORDER BY extent;

-- name: marks
-- The patients and marks of the versions of an extent that are in compartments.
SELECT v.patients, {mark}
FROM versions AS v WHERE v.seq BETWEEN ? AND ? AND v.patients <> '';
