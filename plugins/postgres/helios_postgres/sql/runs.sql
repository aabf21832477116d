-- fragment: cut_into_runs
-- The end of a statement that cuts the extents in `live` into runs.
), summed AS (
    SELECT *, sum(bytes) OVER () AS total,
      sum(bytes) OVER (ORDER BY extent ROWS UNBOUNDED PRECEDING) AS through FROM live
  ), placed AS (
    SELECT *, coalesce(s.pieces, ceil(total / $3)) / nullif(total, 0) AS marks_per_byte
    FROM summed
  )
  SELECT min(extent) << {EXTENT_BITS}, max((extent << {EXTENT_BITS}) + appended),
    sum(resources)::float8, sum(bytes), max(last_stamp)
  FROM placed
  GROUP BY floor((through - bytes) * marks_per_byte) + floor(through * marks_per_byte)
) AS r (first, behind, resources, bytes, last_stamp)
ORDER BY r.first

-- name: of_all_resources
-- The extents of some collections, in runs that can be cut into shards.
-- A shard ends at a mark. Extents between two marks become one run; an extent that contains a mark
-- is a run of its own, so that it can be cut there. For an extent without a mark, the numbers of
-- marks before and up to its end are equal. Sums of float8 are exact up to 2^53, so numeric is not
-- needed. Tallies are sorted before they are grouped: a hash aggregate of unknown size was spilled
-- to disk.
SELECT s.collection, r.*
FROM unnest($1::bigint[], $2::float8[]) AS s (collection, pieces) CROSS JOIN LATERAL (
  WITH tallied AS (
    SELECT extent, sum(ended) AS resources, sum(ended_bytes::float8) AS bytes
    FROM (
      SELECT extent, ended, ended_bytes FROM tallies
      WHERE extent >= s.collection << {EXTENT_NUMBER_BITS}
        AND extent < (s.collection + 1) << {EXTENT_NUMBER_BITS} ORDER BY extent
    ) AS t GROUP BY extent
  ), live AS (
    SELECT e.extent, e.appended, e.last_stamp, e.begun - coalesce(t.resources, 0) AS resources,
      e.appended_bytes::float8 - coalesce(t.bytes, 0) AS bytes
    FROM extents AS e LEFT JOIN tallied AS t USING (extent)
    WHERE e.extent >= s.collection << {EXTENT_NUMBER_BITS}
      AND e.extent < (s.collection + 1) << {EXTENT_NUMBER_BITS}
      AND e.first_stamp <= $4 AND e.last_stamp > $5 AND e.first_stamp < $6
  {cut_into_runs};

-- name: of_patients
-- The same for resources in compartments only.
SELECT s.collection, r.*
FROM unnest($1::bigint[], $2::float8[]) AS s (collection, pieces) CROSS JOIN LATERAL (
  WITH tallied AS (
    SELECT extent, sum(compartment_ended) AS resources, sum(compartment_bytes::float8) AS bytes
    FROM (
      SELECT extent, compartment_ended, compartment_bytes FROM tallies
      WHERE extent >= s.collection << {EXTENT_NUMBER_BITS}
        AND extent < (s.collection + 1) << {EXTENT_NUMBER_BITS} ORDER BY extent
    ) AS t GROUP BY extent
  ), live AS (
    SELECT e.extent, e.appended, e.last_stamp,
      e.compartment_begun - coalesce(t.resources, 0) AS resources,
      e.compartment_bytes::float8 - coalesce(t.bytes, 0) AS bytes
    FROM extents AS e LEFT JOIN tallied AS t USING (extent)
    WHERE e.extent >= s.collection << {EXTENT_NUMBER_BITS}
      AND e.extent < (s.collection + 1) << {EXTENT_NUMBER_BITS}
      AND e.first_stamp <= $4 AND e.last_stamp > $5 AND e.first_stamp < $6
  {cut_into_runs};
