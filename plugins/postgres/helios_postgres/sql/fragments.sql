-- fragment: shown
-- The condition that a view shows a version `v` from seq $1 up to $2; see `Shown.parameters`.
AND v.since_stamp <= $3 AND v.since_stamp > $4 AND v.since_stamp < $5
AND ($6 OR v.patients <> '')
AND NOT EXISTS (
  SELECT FROM endings AS e
  WHERE e.seq = v.seq AND e.seq >= $1 AND e.seq < $2 AND e.until_stamp <= $3
)

-- fragment: mark
-- The arguments of `mark_of`.
v.seq || ' ' || v.id || ' ' || v.version_id || ' ' || v.since_stamp || ' ' || v.deleted::integer
  || ' ' || v.patients || ' ' || v.size || ' ' || v.line_hash,
v.seq, (SELECT e.until_stamp FROM endings AS e WHERE e.seq = v.seq)

-- fragment: no_sums
-- The condition that a patient `k` is stored and has no sums.
(
  SELECT block FROM compartment_sums
  WHERE patient = k.patient AND block BETWEEN $2 AND $3 LIMIT 1
) IS NULL AND (
  SELECT seq FROM resources WHERE collection = $4 AND id = k.patient LIMIT 1
) IS NOT NULL
