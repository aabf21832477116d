-- name: clear_postings
-- Forget all postings.
DELETE FROM postings;

-- name: clear_spans
-- Forget all periods.
DELETE FROM spans;

-- name: clear_sums
-- Forget what must be in the index.
DELETE FROM index_sums;

-- name: clear_totals
-- Forget the sums of these sums.
UPDATE extents SET index_sum = 0;

-- name: add_sum
-- Add to what must be in one part of an extent's index.
INSERT INTO index_sums VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET sum = (sum + excluded.sum) & {SUM_MASK};

-- name: add_total
-- Add to the sum of the sums of an extent.
UPDATE extents SET index_sum = (index_sum + ?2) & {SUM_MASK} WHERE extent = ?1;

-- name: made_by_us
-- Note which rules made the index.
UPDATE search_index SET terms_version = ?;

-- name: insert_posting
-- Add the positions of one term in one extent.
INSERT INTO postings VALUES (?, ?, ?, ?);

-- name: insert_span
-- Add a period of one version.
INSERT INTO spans VALUES (?, ?, ?, ?, ?);

-- name: made_by
-- Which rules made the index.
SELECT terms_version FROM search_index;

-- name: collections
-- All collections, to index them anew.
SELECT collection, fhir_version, resource_type FROM collections;

-- name: extents
-- The extents of a collection.
SELECT extent FROM extents WHERE extent BETWEEN ? AND ?;

-- name: contents
-- The versions of an extent that have content.
SELECT seq, line_hash, content
FROM versions
WHERE seq BETWEEN ? AND ? AND NOT deleted;
