-- name: current
-- The newest versions of some ids.
SELECT v.id, v.seq, v.version_id, v.since_stamp, v.deleted, v.content_hash, v.size, v.patients,
  v.line_hash
FROM json_each(:ids) AS requested
CROSS JOIN versions AS v ON v.seq = (
  SELECT seq FROM versions WHERE collection = :collection AND id = requested.value
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
-- Record the stamp of the last change of a collection.
UPDATE collections SET last_stamp = ? WHERE collection = ?;
