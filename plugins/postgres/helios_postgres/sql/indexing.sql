-- name: take_recent
-- Take what is recent in some extents, to pack it.
DELETE FROM recent_terms
WHERE extent = ANY($1::bigint[])
RETURNING extent, content;

-- name: add_recent
-- Add what a small transaction noted.
INSERT INTO recent_terms SELECT *
FROM unnest($1::bigint[], $2::bytea[]);

-- name: made_by
-- Which rules made the index.
SELECT terms_version FROM search_index;

-- name: made_by_us
-- Note which rules made the index.
UPDATE search_index SET terms_version = $1;

-- name: clear
-- Forget the whole index.
TRUNCATE postings, spans, recent_terms, index_sums;

-- name: set_total
-- Note the sum of the sums of an extent whose index was made anew, in which nothing is recent.
UPDATE extents SET index_sum = $2, recent_sum = 0 WHERE extent = $1;

-- name: add_sums
-- Add to what must be in parts of the index.
INSERT INTO index_sums AS s
SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[])
ON CONFLICT (extent, part, bucket) DO UPDATE SET sum = (s.sum + excluded.sum) & {SUM_MASK};

-- name: collections
-- All collections, to index them anew.
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
