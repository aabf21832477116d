-- name: current
-- The newest versions of some ids.
SELECT v.id, v.seq, v.version_id, v.since_stamp, v.deleted, v.content_hash, v.size, v.patients,
  v.line_hash
FROM json_each(:ids) AS wanted
CROSS JOIN versions AS v ON v.seq = (
  SELECT seq FROM versions WHERE collection = :collection AND id = wanted.value
  ORDER BY version_id DESC LIMIT 1
);

-- name: insert_version
-- Add a version.
INSERT INTO versions
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_compartment
-- Add a version to the compartment of a patient.
INSERT INTO compartments VALUES (?, ?, ?);

-- name: end_version
-- End a version.
UPDATE versions SET until_stamp = ? WHERE seq = ?;

-- name: touch_collection
-- Note when a collection last changed.
UPDATE collections SET last_stamp = ? WHERE collection = ?;
