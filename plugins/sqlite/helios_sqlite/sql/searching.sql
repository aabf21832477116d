-- name: by_id
-- The live versions of a collection by id.
SELECT since_stamp, id, seq
FROM versions
WHERE collection = ? AND id > ? AND until_stamp = {FOREVER} AND NOT deleted
ORDER BY id;

-- name: by_id_descending
-- The live versions of a collection by descending id.
SELECT since_stamp, id, seq
FROM versions
WHERE collection = ? AND id < ? AND until_stamp = {FOREVER} AND NOT deleted
ORDER BY id DESC;

-- name: by_seq
-- The live versions of a range, oldest first.
SELECT since_stamp, id, seq
FROM versions
WHERE seq >= ? AND seq < ? AND until_stamp = {FOREVER} AND NOT deleted
ORDER BY seq;

-- name: by_seq_descending
-- The live versions of a range, newest first.
SELECT since_stamp, id, seq
FROM versions
WHERE seq >= ? AND seq < ? AND until_stamp = {FOREVER} AND NOT deleted
ORDER BY seq DESC;

-- name: among
-- Those of some versions that are live.
SELECT since_stamp, id, seq
FROM versions
WHERE seq IN (SELECT value FROM json_each(?)) AND until_stamp = {FOREVER} AND NOT deleted;

-- name: content
-- One version with its content.
SELECT seq, id, version_id, since_stamp, deleted, line_hash, content
FROM versions
WHERE seq = ?;

-- name: contents
-- The live versions of a range with their contents.
SELECT seq, id, version_id, since_stamp, deleted, line_hash, content
FROM versions
WHERE seq >= ? AND seq < ? AND until_stamp = {FOREVER} AND NOT deleted;

-- name: contents_among
-- Those of some versions that are live, with their contents.
SELECT seq, id, version_id, since_stamp, deleted, line_hash, content
FROM versions
WHERE seq IN (SELECT value FROM json_each(?)) AND until_stamp = {FOREVER} AND NOT deleted;

-- name: count
-- How many live versions a range of extents has.
SELECT total(live) FROM extents WHERE extent BETWEEN ? AND ?;
