-- name: add
-- Add sums of patients in blocks.
INSERT INTO compartment_sums (patient, block, sum)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]);

-- name: any_expected
-- Whether any of these patients has sums in some blocks, or a block is damaged.
SELECT EXISTS (
  SELECT FROM compartment_sums
  WHERE patient = ANY (array_append($1::text[], '')) AND block BETWEEN $2 AND $3
);

-- name: any_unsummed
-- Whether any of these patients is stored without sums.
SELECT EXISTS (SELECT FROM unnest($1::text[]) AS k (patient) WHERE {no_sums});

-- name: extents
-- All extents.
SELECT extent FROM extents ORDER BY extent;

-- name: marks
-- The marks and patients of the versions of an extent that are in compartments.
SELECT {mark}, v.patients
FROM versions AS v WHERE v.seq >= $1 AND v.seq < $2 AND v.patients <> '';
