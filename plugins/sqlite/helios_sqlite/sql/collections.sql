-- name: of_tenant
-- All collections of a tenant and FHIR version.
SELECT collection, resource_type, last_stamp FROM collections
WHERE tenant = ? AND fhir_version = ?;

-- name: all
-- All collections.
SELECT tenant, fhir_version, resource_type FROM collections;

-- name: find
-- The number of one collection.
SELECT collection FROM collections
WHERE tenant = ? AND fhir_version = ? AND resource_type = ?;

-- name: add
-- Add a collection.
INSERT INTO collections (tenant, fhir_version, resource_type, last_stamp)
VALUES (?, ?, ?, 0)
RETURNING collection;
