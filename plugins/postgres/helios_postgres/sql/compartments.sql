-- name: add
-- Add to what patients must have in blocks.
INSERT INTO compartment_sums (patient, block, sum)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]);

-- name: any_expected
-- Whether any of some patients must have anything in some blocks, or something is lost of them.
SELECT EXISTS (
  SELECT FROM compartment_sums
  WHERE patient = ANY (array_append($1::text[], '')) AND block BETWEEN $2 AND $3
);

-- name: any_unsummed
-- Whether any of some patients was stored, and must have nothing.
SELECT EXISTS (SELECT FROM unnest($1::text[]) AS k (patient) WHERE {no_sums});

-- name: extents
-- All extents.
SELECT extent FROM extents ORDER BY extent;

-- name: marks
-- What is stored of the versions of an extent that are in compartments.
SELECT {mark}, v.patients
FROM versions AS v WHERE v.seq >= $1 AND v.seq < $2 AND v.patients <> '';
