-- fragment: shown_of_run
-- Like `shown`, within the run of 128 seqs that begins at r.
AND v.since_stamp <= $3 AND v.since_stamp > $4 AND v.since_stamp < $5
AND ($6 OR v.patients <> '')
AND NOT EXISTS (
  SELECT FROM endings AS e
  WHERE e.seq = v.seq AND e.seq >= r AND e.seq < least(r + 128, $2) AND e.until_stamp <= $3
)

-- fragment: of_cohort
-- The condition that a version `v` belongs to the cohort with number $7.
-- OFFSET keeps the planner from turning the subquery into a join and choosing its direction: just
-- after a million rows were inserted, its estimate of the table can be wrong by any factor.
AND EXISTS (
  SELECT FROM cohort_members AS k
  WHERE k.cohort = $7 AND k.patient = ANY (string_to_array(v.patients, ' ')) OFFSET 0
)

-- name: together
-- All that a view shows of a range, joined in runs of 128 seqs.
-- A row per line would cost PostgreSQL as much as joining the lines, and the driver twice as much.
-- Runs are short enough to be joined, and sorted if needed, in the cache of a core.
SELECT x.* FROM generate_series($1::bigint, $2::bigint - 1, 128) AS r, LATERAL (
  SELECT sum(v.line_hash), string_agg(int4send(v.size), '') AS sizes,
    string_agg(v.content, '\x0a'::bytea)
  FROM (
    SELECT v.* FROM versions AS v
    WHERE v.seq >= r AND v.seq < least(r + 128, $2) AND NOT v.deleted
    {shown_of_run}
    ORDER BY v.seq
  ) AS v OFFSET 0
) AS x WHERE x.sizes IS NOT NULL;

-- name: together_of_cohort
-- The same of a cohort.
SELECT x.* FROM generate_series($1::bigint, $2::bigint - 1, 128) AS r, LATERAL (
  SELECT sum(v.line_hash), string_agg(int4send(v.size), '') AS sizes,
    string_agg(v.content, '\x0a'::bytea)
  FROM (
    SELECT v.* FROM versions AS v
    WHERE v.seq >= r AND v.seq < least(r + 128, $2) AND NOT v.deleted
    {shown_of_run}
    {of_cohort}
    ORDER BY v.seq
  ) AS v OFFSET 0
) AS x WHERE x.sizes IS NOT NULL;

-- name: sizes
-- Seqs and sizes of what a view shows of a range, unsorted.
-- Rows nearly always come in order, and for a table that was not analysed the planner would sort
-- on disk.
SELECT v.seq, v.size FROM versions AS v WHERE v.seq >= $1 AND v.seq < $2 AND NOT v.deleted
  {shown};

-- name: sizes_of_cohort
-- The same of a cohort.
SELECT v.seq, v.size FROM versions AS v WHERE v.seq >= $1 AND v.seq < $2 AND NOT v.deleted
  {shown}
  {of_cohort};

-- name: deleted
-- The deletions of a range that a view shows.
SELECT v.seq, v.id FROM versions AS v WHERE v.seq >= $1 AND v.seq < $2 AND v.deleted
  {shown};

-- name: deleted_of_cohort
-- The same of a cohort.
SELECT v.seq, v.id FROM versions AS v WHERE v.seq >= $1 AND v.seq < $2 AND v.deleted
  {shown}
  {of_cohort};

-- name: sizes_among
-- Seqs and sizes of those of some versions that a view shows.
SELECT v.seq, v.size FROM versions AS v WHERE v.seq >= $1 AND v.seq < $2 AND NOT v.deleted
  {shown}
  AND v.seq = ANY ($7::bigint[]);

-- name: sizes_among_of_cohort
-- The same of a cohort.
SELECT v.seq, v.size FROM versions AS v WHERE v.seq >= $1 AND v.seq < $2 AND NOT v.deleted
  {shown}
  {of_cohort}
  AND v.seq = ANY ($8::bigint[]);

-- name: contents
-- The contents of some versions.
SELECT seq, line_hash, content
FROM versions
WHERE seq = ANY ($1::bigint[]);

-- name: count
-- How many of some versions exist.
SELECT count(*) FROM versions WHERE seq = ANY ($1::bigint[]);

-- name: piece
-- A piece of the content of one version.
SELECT substring(content FROM $2 FOR $3)
FROM versions
WHERE seq = $1;

-- name: no_content
-- Some versions without their contents.
SELECT seq, line_hash, NULL
FROM versions
WHERE seq = ANY ($1::bigint[]);

-- name: ids
-- The ids of some versions.
SELECT seq, id FROM versions WHERE seq = ANY ($1::bigint[]);
