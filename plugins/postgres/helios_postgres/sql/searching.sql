-- name: contents
-- Some versions with their contents.
SELECT seq, id, version_id, since_stamp, deleted, line_hash, content FROM versions
WHERE seq = ANY($1::bigint[]);

-- name: count
-- How many live versions a range of extents has.
SELECT (SELECT coalesce(sum(begun), 0) FROM extents WHERE extent BETWEEN $1 AND $2)
  - (SELECT coalesce(sum(ended), 0) FROM tallies WHERE extent BETWEEN $1 AND $2);
