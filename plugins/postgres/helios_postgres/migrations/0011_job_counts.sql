-- How many shards a job has, and how many parts and bytes of notes a shard has published: rows that
-- are lost are noticed. Of what is there already, what is found counts as all.
ALTER TABLE jobs ADD COLUMN shards integer NOT NULL DEFAULT 0;
ALTER TABLE shards
  ADD COLUMN published integer NOT NULL DEFAULT 0,
  ADD COLUMN noted bigint NOT NULL DEFAULT 0;

UPDATE jobs AS j SET shards = (SELECT count(*) FROM shards WHERE job = j.job);

UPDATE shards AS s SET
  published = (SELECT count(*) FROM parts WHERE job = s.job AND shard = s.number),
  noted = coalesce((SELECT length(notes) FROM notes WHERE job = s.job AND shard = s.number), 0)
WHERE done;
