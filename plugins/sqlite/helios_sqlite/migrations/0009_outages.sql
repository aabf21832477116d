-- A shard waits for a backend: how often it was postponed, since when, and for what. `furthest` is
-- the most resources that any attempt reported; an attempt that gets further ends the wait.
ALTER TABLE shards ADD COLUMN postponed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN waiting_since INTEGER;
ALTER TABLE shards ADD COLUMN waiting_for TEXT;
ALTER TABLE shards ADD COLUMN furthest INTEGER NOT NULL DEFAULT 0;
