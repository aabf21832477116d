-- Which store this is; it marks output folders.
CREATE TABLE stores (
  identity TEXT NOT NULL
) STRICT;

-- The last instant handed out, in microseconds since 1970; it never goes back.
CREATE TABLE clock (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  last_stamp INTEGER NOT NULL
) STRICT;

INSERT INTO clock VALUES (1, 0);

-- Everything of one type, tenant and FHIR version is one scope.
CREATE TABLE scopes (
  scope INTEGER PRIMARY KEY,
  tenant TEXT NOT NULL,
  fhir_version TEXT NOT NULL,
  resource_type TEXT NOT NULL,
  last_stamp INTEGER NOT NULL,
  UNIQUE (tenant, fhir_version, resource_type)
) STRICT;

-- Every version of every resource. The scope is in the upper bits of seq, so that a scope is one
-- run of the table; within it the order of seq is the order of stamps. A version is current from
-- since_stamp to until_stamp, and until_stamp has its final size from the start, so that ending a
-- version rewrites eight bytes and not the content. Content comes last: what stands before it is
-- read without it.
CREATE TABLE versions (
  seq INTEGER PRIMARY KEY,
  scope INTEGER NOT NULL,
  id TEXT NOT NULL,
  version_id INTEGER NOT NULL,
  since_stamp INTEGER NOT NULL,
  until_stamp INTEGER NOT NULL,
  deleted INTEGER NOT NULL,
  patients TEXT NOT NULL,
  size INTEGER NOT NULL,
  line_hash INTEGER NOT NULL,
  content_hash INTEGER NOT NULL,
  content BLOB
) STRICT;

CREATE UNIQUE INDEX versions_by_id ON versions (scope, id, version_id);

-- The versions of each patient's compartment; a deletion is where the version it ended was.
CREATE TABLE compartments (
  scope INTEGER NOT NULL,
  patient TEXT NOT NULL,
  seq INTEGER NOT NULL,
  PRIMARY KEY (scope, patient, seq)
) STRICT, WITHOUT ROWID;

-- What lies in each run of 4,096 seqs, so that planning reads no versions.
CREATE TABLE extents (
  extent INTEGER PRIMARY KEY,
  first_stamp INTEGER NOT NULL,
  appended INTEGER NOT NULL,
  appended_bytes INTEGER NOT NULL,
  live INTEGER NOT NULL,
  live_bytes INTEGER NOT NULL,
  compartment_live INTEGER NOT NULL,
  compartment_bytes INTEGER NOT NULL
) STRICT;

-- Export jobs; instants here are milliseconds since 1970 by SQLite's clock.
CREATE TABLE jobs (
  job INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT NOT NULL,
  id TEXT NOT NULL,
  accepted BLOB NOT NULL,
  status TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  completed_at INTEGER,
  failure TEXT,
  UNIQUE (tenant, id)
) STRICT;

CREATE INDEX jobs_active ON jobs (tenant) WHERE status IN ('accepted', 'in-progress');
CREATE INDEX jobs_ended ON jobs (completed_at) WHERE completed_at IS NOT NULL;

-- available_at is when a shard may be claimed: at once, after a failure's pause, or when its lease
-- lapses. NULL is never again.
CREATE TABLE shards (
  job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
  number INTEGER NOT NULL,
  shard BLOB NOT NULL,
  resources INTEGER NOT NULL,
  resources_done INTEGER NOT NULL DEFAULT 0,
  done INTEGER NOT NULL DEFAULT 0,
  available_at INTEGER,
  worker TEXT,
  token INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0,
  last_error TEXT,
  PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX shards_open ON shards (job, number, available_at) WHERE available_at IS NOT NULL;

-- Published parts only.
CREATE TABLE parts (
  job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
  kind INTEGER NOT NULL,
  shard INTEGER NOT NULL,
  number INTEGER NOT NULL,
  part BLOB NOT NULL,
  PRIMARY KEY (job, kind, shard, number)
) STRICT, WITHOUT ROWID;

-- When each tenant was last served, counted in claims.
CREATE TABLE turns (
  tenant TEXT PRIMARY KEY,
  served INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
