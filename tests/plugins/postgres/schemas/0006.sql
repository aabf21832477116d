-- What was called a scope is called a collection: all resources of one type in one tenant and FHIR
-- version. Scopes are what SMART calls the rights of a client.
ALTER TABLE scopes RENAME TO collections;
ALTER TABLE collections RENAME COLUMN scope TO collection;
ALTER TABLE collections RENAME CONSTRAINT scopes_pkey TO collections_pkey;
ALTER TABLE collections RENAME CONSTRAINT scopes_tenant_fhir_version_resource_type_key
  TO collections_tenant_fhir_version_resource_type_key;
ALTER SEQUENCE scopes_scope_seq RENAME TO collections_collection_seq;
ALTER TABLE endings RENAME COLUMN scope TO collection;
ALTER TABLE resources RENAME COLUMN scope TO collection;
ALTER TABLE compartments RENAME COLUMN scope TO collection;
