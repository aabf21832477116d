-- A shard waits for a backend: how often it was postponed, since when, and for what. `furthest` is
-- the most resources that any attempt reported; an attempt that gets further ends the wait.
ALTER TABLE shards
  ADD COLUMN postponed integer NOT NULL DEFAULT 0,
  ADD COLUMN waiting_since timestamptz,
  ADD COLUMN waiting_for text,
  ADD COLUMN furthest bigint NOT NULL DEFAULT 0;
