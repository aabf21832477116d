-- name: extents
-- The counts of some extents.
SELECT extent, appended, live, live_bytes, compartment_live, compartment_bytes
FROM extents WHERE extent BETWEEN ? AND ? ORDER BY extent;

-- name: any_shown
-- Whether any of the first versions of a range is shown.
SELECT EXISTS (
  SELECT 1 FROM (
    SELECT since_stamp, until_stamp, deleted, patients FROM versions
    WHERE seq >= :first AND seq < :end ORDER BY seq LIMIT :looked_up
  )
  WHERE since_stamp <= :at AND until_stamp > :at AND (:all_resources OR patients <> '')
    AND (NOT deleted OR :deletions)
);

-- name: more_than
-- Whether a range has more than :looked_up versions.
SELECT 1
FROM versions
WHERE seq >= :first AND seq < :end LIMIT 1 OFFSET :looked_up;

-- name: shown_of_cohort
-- How many resources and bytes of a sample of patients a view shows.
SELECT count(*), total(NOT deleted), total(size) FROM versions
WHERE seq IN (
  SELECT c.seq FROM json_each(:patients) AS p
  CROSS JOIN compartments AS c ON c.collection = :collection AND c.patient = p.value
  WHERE c.seq >= :first AND c.seq < :end
)
AND since_stamp <= :at AND until_stamp > :at AND (NOT deleted OR :deletions);

-- name: any_of_cohort
-- Whether any of these patients has anything in a range.
SELECT EXISTS (
  SELECT 1 FROM json_each(:patients) AS p
  CROSS JOIN compartments AS c ON c.collection = :collection AND c.patient = p.value
  WHERE c.seq >= :first AND c.seq < :end
);

-- name: some_patients
-- Some patients that have anything in a collection.
SELECT patient FROM compartments
WHERE collection = ? LIMIT ?;
