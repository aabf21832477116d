-- name: newest
-- The versions of a range after a position, newest first, optionally only those that were current
-- at a stamp or later.
SELECT since_stamp, seq FROM versions
WHERE seq >= :first AND seq < :end AND (since_stamp < :stamp OR seq < :seq)
  AND (:current_from IS NULL OR since_stamp >= :current_from
    OR (until_stamp > :current_from AND NOT deleted))
ORDER BY seq DESC;

-- name: content
-- One version with its content.
SELECT seq, id, version_id, since_stamp, deleted, line_hash, content
FROM versions
WHERE seq = ?;
