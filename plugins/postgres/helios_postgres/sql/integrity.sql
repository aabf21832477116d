-- name: stored
-- The counts and sums of the live versions of some extents, and the row sums of all.
SELECT e.extent, e.appended, e.begun - t.ended, e.appended_bytes - t.ended_bytes,
  e.begun_hash - t.ended_hash, e.compartment_begun - t.compartment_ended,
  e.compartment_bytes - t.compartment_bytes, e.compartment_hash - t.compartment_hash,
  e.row_sum + t.row_sum
FROM extents AS e CROSS JOIN LATERAL (
  SELECT coalesce(sum(ended), 0) AS ended, coalesce(sum(ended_bytes), 0) AS ended_bytes,
    coalesce(sum(ended_hash), 0) AS ended_hash,
    coalesce(sum(compartment_ended), 0) AS compartment_ended,
    coalesce(sum(compartment_bytes), 0) AS compartment_bytes,
    coalesce(sum(compartment_hash), 0) AS compartment_hash, coalesce(sum(row_sum), 0) AS row_sum
  FROM tallies WHERE extent = e.extent
) AS t
WHERE e.extent BETWEEN $1 AND $2 ORDER BY e.extent;

-- name: unsummed
-- The next extent that has only counts, without sums.
SELECT extent FROM extents WHERE extent > $1 AND row_sum IS NULL ORDER BY extent LIMIT 1;

-- name: tallied
-- The sums of the ended versions of an extent.
SELECT coalesce(sum(ended_hash), 0)::numeric, coalesce(sum(compartment_hash), 0)::numeric,
  coalesce(sum(row_sum), 0)::numeric
FROM tallies WHERE extent = $1;

-- name: set_sums
-- Set the sums of an extent.
UPDATE extents SET begun_hash = $2, compartment_hash = $3, row_sum = $4,
  check_sum = 3::bigint * appended + 5 * appended_bytes + 7 * begun + 11 * compartment_begun
    + 13 * compartment_bytes + 17 * first_stamp + 19 * last_stamp
WHERE extent = $1;

-- name: rows
-- The versions of an extent without their contents, with their endings.
SELECT v.seq, v.id, v.version_id, v.since_stamp, v.deleted::integer, v.patients, v.size,
  v.line_hash, e.until_stamp
FROM versions AS v LEFT JOIN endings AS e ON e.seq = v.seq
WHERE v.seq >= $1 AND v.seq < $2;

-- name: implausible
-- Whether the check_sum of any extent of these collections is wrong.
SELECT EXISTS (
  SELECT FROM unnest($1::bigint[]) AS s (collection) JOIN extents AS e
  ON e.extent >= s.collection << {EXTENT_NUMBER_BITS}
    AND e.extent < (s.collection + 1) << {EXTENT_NUMBER_BITS}
  WHERE e.check_sum <> 3::bigint * e.appended + 5 * e.appended_bytes + 7 * e.begun
    + 11 * e.compartment_begun + 13 * e.compartment_bytes + 17 * e.first_stamp
    + 19 * e.last_stamp
);

-- name: astray
-- Whether any versions of these collections belong to no extent.
SELECT EXISTS (
  SELECT FROM unnest($1::bigint[]) AS s (collection) CROSS JOIN LATERAL (
    SELECT extent + 1 AS low, lead(extent, 1, (s.collection + 1) << {EXTENT_NUMBER_BITS})
      OVER (ORDER BY extent) AS high
    FROM extents WHERE extent >= s.collection << {EXTENT_NUMBER_BITS}
      AND extent < (s.collection + 1) << {EXTENT_NUMBER_BITS}
    UNION ALL
    SELECT s.collection << {EXTENT_NUMBER_BITS}, coalesce(
      (SELECT min(extent) FROM extents WHERE extent >= s.collection << {EXTENT_NUMBER_BITS}
        AND extent < (s.collection + 1) << {EXTENT_NUMBER_BITS}),
      (s.collection + 1) << {EXTENT_NUMBER_BITS}
    )
  ) AS g
  WHERE g.low < g.high AND EXISTS (
    SELECT FROM versions AS v
    WHERE v.seq >= g.low << {EXTENT_BITS} AND v.seq < g.high << {EXTENT_BITS}
  )
);

-- name: unlisted
-- Whether there are versions of a collection that does not exist.
WITH RECURSIVE stored (collection) AS (
  SELECT (SELECT min(seq) FROM versions) >> {COLLECTION_BITS}
  UNION ALL
  SELECT (
    SELECT min(seq) FROM versions WHERE seq >= (s.collection + 1) << {COLLECTION_BITS}
  ) >> {COLLECTION_BITS}
  FROM stored AS s WHERE s.collection IS NOT NULL
)
SELECT EXISTS (
  SELECT FROM stored AS s WHERE s.collection IS NOT NULL
    AND NOT EXISTS (SELECT FROM collections AS c WHERE c.collection + 0 = s.collection)
);

-- name: listed
-- The collections of a tenant and FHIR version.
-- The expressions keep PostgreSQL from using an index, which may be damaged.
SELECT resource_type, collection FROM collections
WHERE tenant || '' = $1 AND fhir_version || '' = $2;
