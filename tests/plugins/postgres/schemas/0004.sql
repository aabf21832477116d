-- The place of a part among the published parts of its job. Of parts that were published before
-- places were kept, nobody knows the order any more; they get the one in which they are listed.
ALTER TABLE parts ADD COLUMN position integer;

UPDATE parts AS p SET position = numbered.position
FROM (
  SELECT job, kind, shard, number,
    row_number() OVER (PARTITION BY job ORDER BY kind, shard, number) - 1 AS position
  FROM parts
) AS numbered
WHERE (p.job, p.kind, p.shard, p.number)
  = (numbered.job, numbered.kind, numbered.shard, numbered.number);

ALTER TABLE parts ALTER COLUMN position SET NOT NULL;

CREATE UNIQUE INDEX parts_by_position ON parts (job, position);

-- The token under which a shard was completed: it tells a worker whose answer was lost whether the
-- completion was its own. Of shards completed before, nobody asks any more.
ALTER TABLE shards ADD COLUMN completed_under bigint;

-- What completed shards noted for those of later phases; it can be megabytes.
CREATE TABLE notes (
  job bigint NOT NULL REFERENCES jobs ON DELETE CASCADE,
  shard integer NOT NULL,
  notes bytea NOT NULL,
  PRIMARY KEY (job, shard)
);
