-- name: clear_postings
-- Forget all postings.
DELETE FROM postings;

-- name: clear_spans
-- Forget all periods.
DELETE FROM spans;

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
