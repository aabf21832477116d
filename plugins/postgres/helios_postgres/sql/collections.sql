-- name: all
-- All collections.
SELECT tenant, fhir_version, resource_type FROM collections;

-- name: find
-- The numbers of some collections.
SELECT resource_type, collection FROM collections
WHERE tenant = $1 AND fhir_version = $2 AND resource_type = ANY($3::text[]);

-- name: intern
-- Add collections that are missing.
INSERT INTO collections (tenant, fhir_version, resource_type)
SELECT $1, $2, unnest($3::text[]) ON CONFLICT DO NOTHING;
