-- fragment: now
-- Milliseconds since 1970 by SQLite's clock (J7).
CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)
