-- fragment: at
-- The versions `v` of ids that were current at a stamp.
-- That is the newest version if it is not younger than the stamp, else the first that ended later.
FROM unnest($2::text[]) WITH ORDINALITY AS w (id, place)
CROSS JOIN LATERAL (
  SELECT r.seq FROM resources AS r
  WHERE r.collection = $1 AND r.id = w.id AND r.since_stamp <= $3
  UNION ALL
  (SELECT e.seq FROM endings AS e
  WHERE e.collection = $1 AND e.id = w.id AND e.until_stamp > $3
  ORDER BY e.version_id LIMIT 1)
  LIMIT 1
) AS s
JOIN versions AS v ON v.seq = s.seq
WHERE v.since_stamp <= $3

-- name: get
-- The version of a resource that was current at a stamp.
SELECT v.id, v.version_id, v.since_stamp, v.deleted, v.line_hash, v.content
{at};

-- name: live_ids
-- Those of some ids that belong to resources live at a stamp.
SELECT v.id
{at}
  AND NOT v.deleted;

-- name: fetch
-- The lines of the resources with some ids that were live at a stamp.
SELECT v.id, v.line_hash, v.content
{at}
  AND NOT v.deleted ORDER BY w.place;

-- name: among
-- Those of some ids that a view shows, with their patients.
SELECT v.id, v.patients
{at}
  AND NOT v.deleted AND v.since_stamp > $4 AND v.since_stamp < $5 AND ($6 OR v.patients <> '');

-- name: history
-- The versions of a resource below a version number, newest first.
SELECT v.id, v.version_id, v.since_stamp, v.deleted, v.line_hash, v.content
FROM (SELECT * FROM (
  SELECT r.seq, r.version_id FROM resources AS r
  WHERE r.collection = $1 AND r.id = $2 AND r.version_id < $3
  UNION ALL
  (SELECT e.seq, e.version_id FROM endings AS e
  WHERE e.collection = $1 AND e.id = $2 AND e.version_id < $3
  ORDER BY e.version_id DESC LIMIT $4)
) AS a ORDER BY version_id DESC LIMIT $4) AS s
JOIN versions AS v ON v.seq = s.seq ORDER BY s.version_id DESC;
