-- name: at
-- The newest version of a resource that is as old as an instant.
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
-- The versions of a resource below one, newest first.
SELECT seq, id, version_id, since_stamp, deleted, line_hash, content
FROM versions
WHERE collection = ? AND id = ? AND version_id < ?
ORDER BY version_id DESC LIMIT ?;

-- name: live_at
-- Which of some ids are live at an instant.
SELECT wanted.value FROM json_each(:ids) AS wanted
WHERE (
  SELECT NOT deleted FROM versions WHERE collection = :collection AND id = wanted.value
  AND since_stamp <= :at ORDER BY version_id DESC LIMIT 1
);

-- name: among
-- Which of some ids a view shows, with their compartments.
SELECT v.id, v.patients FROM json_each(:ids) AS wanted
CROSS JOIN versions AS v ON v.collection = :collection AND v.id = wanted.value
WHERE v.since_stamp <= :at AND v.until_stamp > :at
  AND v.since_stamp > :since AND v.since_stamp < :until
  AND NOT v.deleted AND (:everybody OR v.patients <> '');

-- name: fetch
-- The lines of those of some ids that are live at an instant.
SELECT v.id, v.size, v.line_hash, v.content FROM json_each(:ids) AS wanted
CROSS JOIN versions AS v ON v.collection = :collection AND v.id = wanted.value
WHERE v.since_stamp <= :at AND v.until_stamp > :at AND NOT v.deleted;
