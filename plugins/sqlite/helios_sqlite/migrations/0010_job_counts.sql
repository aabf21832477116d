-- How many shards a job has, and how many parts and bytes of notes a shard has published: rows that
-- are lost are noticed. Of what is there already, what is found counts as all.
ALTER TABLE jobs ADD COLUMN shards INTEGER NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN published INTEGER NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN noted INTEGER NOT NULL DEFAULT 0;

UPDATE jobs SET shards = (SELECT count(*) FROM shards WHERE job = jobs.job);

UPDATE shards SET
  published = (SELECT count(*) FROM parts WHERE job = shards.job AND shard = shards.number),
  noted = coalesce(
    (SELECT length(notes) FROM notes WHERE job = shards.job AND shard = shards.number), 0
  )
WHERE done = 1;
