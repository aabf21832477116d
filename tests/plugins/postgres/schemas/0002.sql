-- Which store this is; it marks output folders.
CREATE TABLE stores (
  identity text NOT NULL
);

INSERT INTO stores VALUES (gen_random_uuid()::text);

-- When each tenant was last served, counted in claims.
CREATE TABLE turns (
  tenant text PRIMARY KEY,
  served bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 1000);

CREATE SEQUENCE servings;

-- Export jobs; the order of job is the order in which they were accepted.
CREATE TABLE jobs (
  job bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant text NOT NULL,
  id text NOT NULL,
  accepted bytea NOT NULL,
  status text NOT NULL,
  created_at timestamptz NOT NULL,
  completed_at timestamptz,
  failure text,
  UNIQUE (tenant, id)
);

CREATE INDEX jobs_active ON jobs (tenant, job) WHERE status IN ('accepted', 'in-progress');
CREATE INDEX jobs_ended ON jobs (completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX jobs_recent ON jobs (tenant, completed_at, job) WHERE status = 'complete';

-- A shard may be claimed from available_at on: at once, after a failure's pause, or when its lease
-- lapses. NULL is never again. It waits for the shards of its job's earlier phases.
--
-- No index has a column that a claim or a renewal changes, so that their row versions stay on the
-- page and are pruned there; the fill factor leaves them the room.
CREATE TABLE shards (
  job bigint NOT NULL REFERENCES jobs ON DELETE CASCADE,
  number integer NOT NULL,
  phase integer NOT NULL,
  shard bytea NOT NULL,
  resources bigint NOT NULL,
  resources_done bigint NOT NULL DEFAULT 0,
  done boolean NOT NULL DEFAULT false,
  available_at timestamptz,
  worker text,
  token bigint NOT NULL DEFAULT 0,
  attempts integer NOT NULL DEFAULT 0,
  last_error text,
  PRIMARY KEY (job, number)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX shards_open ON shards (job, phase, number) WHERE NOT done;

-- Published parts only.
CREATE TABLE parts (
  job bigint NOT NULL REFERENCES jobs ON DELETE CASCADE,
  kind integer NOT NULL,
  shard integer NOT NULL,
  number integer NOT NULL,
  part bytea NOT NULL,
  PRIMARY KEY (job, kind, shard, number)
);
