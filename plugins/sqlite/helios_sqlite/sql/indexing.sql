-- name: clear_postings
-- Delete all postings.
DELETE FROM postings;

-- name: clear_spans
-- Delete all spans.
DELETE FROM spans;

-- name: clear_sums
-- Delete the expected sums of the index.
DELETE FROM index_sums;

-- name: clear_totals
-- Reset the sum of all index sums of each extent.
UPDATE extents SET index_sum = 0;

-- name: add_sum
-- Add to an expected sum of the index.
INSERT INTO index_sums VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET sum = (sum + excluded.sum) & {SUM_MASK};

-- name: add_total
-- Add to the sum of all index sums of an extent.
UPDATE extents SET index_sum = (index_sum + ?2) & {SUM_MASK} WHERE extent = ?1;

-- name: made_by_us
-- Record the version of the terms that the index was built with.
UPDATE search_index SET terms_version = ?;

-- name: insert_posting
-- Add the positions of one term in one extent.
INSERT INTO postings VALUES (?, ?, ?, ?);

-- name: insert_span
-- Add a span of one version.
INSERT INTO spans VALUES (?, ?, ?, ?, ?);

-- name: made_by
-- The version of the terms that the index was built with.
SELECT terms_version FROM search_index;

-- name: collections
-- All collections.
SELECT collection, fhir_version, resource_type FROM collections;

-- name: extents
-- The extents of a collection.
SELECT extent FROM extents WHERE extent BETWEEN ? AND ?;

-- name: contents
-- The versions of an extent that have content.
SELECT seq, line_hash, content
FROM versions
WHERE seq BETWEEN ? AND ? AND NOT deleted;
