-- fragment: shown
-- What the versions `v` from seq $1 up to $2 satisfy that a view shows; see `Shown.parameters`.
AND v.since_stamp <= $3 AND v.since_stamp > $4 AND v.since_stamp < $5
AND ($6 OR v.patients <> '')
AND NOT EXISTS (
  SELECT FROM endings AS e
  WHERE e.seq = v.seq AND e.seq >= $1 AND e.seq < $2 AND e.until_stamp <= $3
)
