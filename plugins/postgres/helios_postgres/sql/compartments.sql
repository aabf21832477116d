-- fragment: mark
-- What `_mark` is of.
v.seq || ' ' || v.id || ' ' || v.version_id || ' ' || v.since_stamp || ' ' || v.deleted::integer
  || ' ' || v.patients || ' ' || v.size || ' ' || v.line_hash,
v.seq, (SELECT e.until_stamp FROM endings AS e WHERE e.seq = v.seq)

-- name: add
-- Add to what patients must have in blocks.
INSERT INTO compartment_sums (patient, block, sum)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]);

-- name: expected
-- What a cohort must have in some blocks, and what is lost of them.
SELECT coalesce(sum(s.sum), 0) FROM (
  SELECT patient FROM cohort_members WHERE cohort = $1 UNION ALL SELECT ''
) AS k CROSS JOIN LATERAL (
  SELECT sum FROM compartment_sums
  WHERE patient = k.patient AND block BETWEEN $2 AND $3 OFFSET 0
) AS s;

-- name: any_expected
-- Whether any of some patients must have anything in some blocks, or something is lost of them.
SELECT EXISTS (
  SELECT FROM compartment_sums WHERE patient = ANY (array_append($1::text[], '')) AND block BETWEEN $2 AND $3
);

-- fragment: unsummed
-- That somebody, `k`, was stored as a Patient, and must have nothing.
(
  SELECT block FROM compartment_sums
  WHERE patient = k.patient AND block BETWEEN $2 AND $3 LIMIT 1
) IS NULL AND (
  SELECT seq FROM resources WHERE collection = $4 AND id = k.patient LIMIT 1
) IS NOT NULL

-- name: unsummed_patient
-- Whether there is a patient of a cohort who was stored, and must have nothing.
SELECT EXISTS (SELECT FROM cohort_members AS k WHERE k.cohort = $1 AND {unsummed});

-- name: any_unsummed
-- Whether any of some patients was stored, and must have nothing.
SELECT EXISTS (SELECT FROM unnest($1::text[]) AS k (patient) WHERE {unsummed});

-- name: listed
-- The versions of a range that are in compartments of a cohort, in order, and in how many.
SELECT c.seq, count(*) FROM cohort_members AS k CROSS JOIN LATERAL (
  SELECT seq FROM compartments
  WHERE collection = $2 AND patient = k.patient AND seq >= $3 AND seq < $4 OFFSET 0
) AS c
WHERE k.cohort = $1 GROUP BY c.seq ORDER BY c.seq;

-- name: members
-- What is stored of some versions, and whether a view shows them.
SELECT {mark}, v.size, v.deleted, (true
  {shown})
FROM versions AS v WHERE v.seq >= $1 AND v.seq < $2 AND v.seq = ANY ($7::bigint[]);

-- name: extents
-- All extents.
SELECT extent FROM extents ORDER BY extent;

-- name: marks
-- What is stored of the versions of an extent that are in compartments.
SELECT {mark}, v.patients
FROM versions AS v WHERE v.seq >= $1 AND v.seq < $2 AND v.patients <> '';
