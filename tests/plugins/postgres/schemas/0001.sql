-- Everything of one type, tenant and FHIR version is one scope. There are at most 2^23.
CREATE TABLE scopes (
  scope integer GENERATED ALWAYS AS IDENTITY (MAXVALUE 8388607) PRIMARY KEY,
  tenant text NOT NULL,
  fhir_version text NOT NULL,
  resource_type text NOT NULL,
  UNIQUE (tenant, fhir_version, resource_type)
);

-- The last instant given out, to a write or to an export, in microseconds since 1970. A sequence,
-- because it changes at once and leaves no dead rows: as a row it would be the hottest of all.
CREATE SEQUENCE clock MINVALUE 0 START 0;

CREATE FUNCTION wall_stamp() RETURNS bigint LANGUAGE sql VOLATILE AS $$
  SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
$$;

-- Move the clock to now, further than it was in any case: a replica that shows an instant shows all
-- that was committed before it. The lock is held for this moment and not until the transaction
-- ends: it goes with the subtransaction, whose rollback does not undo what was done to a sequence.
CREATE FUNCTION tick(clock_key bigint) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  stamp bigint;
BEGIN
  BEGIN
    PERFORM pg_advisory_xact_lock(clock_key);
    SELECT greatest(wall_stamp(), last_value + 1) INTO stamp FROM clock;
    PERFORM setval('clock', stamp);
    RAISE SQLSTATE 'HE001';
  EXCEPTION WHEN SQLSTATE 'HE001' THEN
    RETURN stamp;
  END;
END
$$;

-- The stamp of a write. Until its transaction ends no export can settle on an instant.
CREATE FUNCTION write_stamp(settle_key bigint, clock_key bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(settle_key);
  RETURN tick(clock_key);
END
$$;

-- An instant that every write in flight has been waited for. It fails by lock_timeout.
CREATE FUNCTION settled_stamp(settle_key bigint, clock_key bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(settle_key);
  RETURN tick(clock_key);
END
$$;

-- Every version of every resource, written once and never changed. The scope is in the upper 23
-- bits of seq, the extent with it in the upper 51, so that a scope is one run of keys. What is
-- short comes first, so that it is read without the content. What fits into a page is kept in it as
-- it is: compressing what is over 2 kB, as is the default, takes longer at every export.
CREATE TABLE versions (
  seq bigint PRIMARY KEY,
  since_stamp bigint NOT NULL,
  line_hash bigint NOT NULL,
  size integer NOT NULL,
  version_id integer NOT NULL,
  deleted boolean NOT NULL,
  id text COLLATE "C" NOT NULL,
  patients text COLLATE "C" NOT NULL,
  content bytea
) WITH (toast_tuple_target = 8160);

CREATE INDEX versions_deleted ON versions (seq) WHERE deleted;

-- What stopped being current, and when: the stamp of the version that followed. An update of
-- `versions` would copy the content, this is a few bytes.
CREATE TABLE endings (
  seq bigint NOT NULL,
  until_stamp bigint NOT NULL,
  scope integer NOT NULL,
  version_id integer NOT NULL,
  id text COLLATE "C" NOT NULL,
  PRIMARY KEY (seq) INCLUDE (until_stamp)
);

CREATE INDEX endings_by_id ON endings (scope, id, version_id) INCLUDE (until_stamp, seq);

-- The newest version of each resource, a deletion perhaps. A writer locks this row, in the order
-- of the key; it fits into its page again when it is updated.
CREATE TABLE resources (
  seq bigint NOT NULL,
  since_stamp bigint NOT NULL,
  content_hash bigint NOT NULL,
  scope integer NOT NULL,
  version_id integer NOT NULL,
  size integer NOT NULL,
  deleted boolean NOT NULL,
  in_compartment boolean NOT NULL,
  id text COLLATE "C" NOT NULL,
  PRIMARY KEY (scope, id)
) WITH (fillfactor = 90);

-- The versions of each patient's compartment; a deletion is where the version it ended was.
CREATE TABLE compartments (
  seq bigint NOT NULL,
  scope integer NOT NULL,
  patient text COLLATE "C" NOT NULL,
  PRIMARY KEY (scope, patient, seq)
);

CREATE SEQUENCE extent_numbers MINVALUE 0 MAXVALUE 268435455;

-- What was written to each run of 4,096 seqs, so that planning reads no versions. One writer at a
-- time fills an extent: it holds the row until its transaction ends, and another takes another.
CREATE TABLE extents (
  extent bigint PRIMARY KEY,
  first_stamp bigint NOT NULL,
  last_stamp bigint NOT NULL,
  appended_bytes bigint NOT NULL,
  compartment_bytes bigint NOT NULL,
  appended integer NOT NULL,
  begun integer NOT NULL,
  compartment_begun integer NOT NULL,
  open boolean NOT NULL
) WITH (fillfactor = 50);

CREATE INDEX extents_open ON extents (extent) WHERE open;

-- What has ended in each extent. There may be several rows, as many as there were writers at once:
-- one that finds them taken adds its own.
CREATE TABLE tallies (
  tally bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  extent bigint NOT NULL,
  ended_bytes bigint NOT NULL,
  compartment_bytes bigint NOT NULL,
  ended integer NOT NULL,
  compartment_ended integer NOT NULL
) WITH (fillfactor = 50);

CREATE INDEX tallies_by_extent ON tallies (extent);

-- The explicit cohorts that exports are about, sent once for all workers. They can be sent again,
-- so a crash may take them.
CREATE UNLOGGED TABLE cohorts (
  cohort bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  key text COLLATE "C" NOT NULL UNIQUE,
  used_at timestamptz NOT NULL
);

CREATE UNLOGGED TABLE cohort_members (
  cohort bigint NOT NULL,
  patient text COLLATE "C" NOT NULL,
  PRIMARY KEY (cohort, patient)
);
