-- What plugins keep beside the jobs; `expires_at` is NULL for what stays.
CREATE TABLE records (
  namespace text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  value bytea NOT NULL,
  expires_at timestamptz,
  PRIMARY KEY (namespace, key)
);

CREATE INDEX records_by_expiry ON records (expires_at) WHERE expires_at IS NOT NULL;
