-- name: at
-- The version of a resource that was current at a stamp.
SELECT seq, id, version_id, since_stamp, deleted, line_hash, content
FROM versions
WHERE collection = ? AND id = ? AND since_stamp <= ?
ORDER BY version_id DESC LIMIT 1;

-- name: version
-- One version of a resource.
SELECT seq, id, version_id, since_stamp, deleted, line_hash, content
FROM versions
WHERE collection = ? AND id = ? AND version_id = ?;

-- name: history
-- The versions of a resource below a version number, newest first.
SELECT seq, id, version_id, since_stamp, deleted, line_hash, content
FROM versions
WHERE collection = ? AND id = ? AND version_id < ?
ORDER BY version_id DESC LIMIT ?;

-- name: live_at
-- Those of some ids that belong to resources live at a stamp.
SELECT requested.value FROM json_each(:ids) AS requested
WHERE (
  SELECT NOT deleted FROM versions WHERE collection = :collection AND id = requested.value
  AND since_stamp <= :at ORDER BY version_id DESC LIMIT 1
);

-- name: among
-- Those of some ids that a view shows, with their patients.
SELECT v.id, v.patients FROM json_each(:ids) AS requested
CROSS JOIN versions AS v ON v.collection = :collection AND v.id = requested.value
WHERE v.since_stamp <= :at AND v.until_stamp > :at
  AND v.since_stamp > :since AND v.since_stamp < :until
  AND NOT v.deleted AND (:all_resources OR v.patients <> '');

-- name: fetch
-- The lines of the resources with some ids that were live at a stamp.
SELECT v.id, v.size, v.line_hash, v.content FROM json_each(:ids) AS requested
CROSS JOIN versions AS v ON v.collection = :collection AND v.id = requested.value
WHERE v.since_stamp <= :at AND v.until_stamp > :at AND NOT v.deleted;
