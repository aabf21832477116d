-- What was called a scope is called a collection: all resources of one type in one tenant and FHIR
-- version. Scopes are what SMART calls the rights of a client.
ALTER TABLE scopes RENAME TO collections;
ALTER TABLE collections RENAME COLUMN scope TO collection;
ALTER TABLE versions RENAME COLUMN scope TO collection;
ALTER TABLE compartments RENAME COLUMN scope TO collection;
