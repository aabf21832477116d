-- name: take_recent
-- Remove the recent entries of some extents, and return them to be packed.
DELETE FROM recent_terms
WHERE extent = ANY($1::bigint[])
RETURNING extent, content;

-- name: add_recent
-- Add the entries of a small transaction.
INSERT INTO recent_terms SELECT *
FROM unnest($1::bigint[], $2::bytea[]);

-- name: made_by
-- The version of the terms that the index was built with.
SELECT terms_version FROM search_index;

-- name: made_by_us
-- Record the version of the terms that the index was built with.
UPDATE search_index SET terms_version = $1;

-- name: clear
-- Empty the index.
TRUNCATE postings, spans, recent_terms, index_sums;

-- name: set_total
-- Set the sum of all index sums of an extent whose index was rebuilt, without recent entries.
UPDATE extents SET index_sum = $2, recent_sum = 0 WHERE extent = $1;

-- name: add_sums
-- Add to the expected sums of the index.
INSERT INTO index_sums AS s
SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[])
ON CONFLICT (extent, part, bucket) DO UPDATE SET sum = (s.sum + excluded.sum) & {SUM_MASK};

-- name: collections
-- All collections.
SELECT collection, fhir_version, resource_type FROM collections;

-- name: extents
-- The extents of a collection.
SELECT extent
FROM extents
WHERE extent BETWEEN $1 AND $2
ORDER BY extent;

-- name: contents
-- The versions of an extent that have content.
SELECT seq, line_hash, content FROM versions
WHERE seq BETWEEN $1 AND $2 AND NOT deleted ORDER BY seq;
