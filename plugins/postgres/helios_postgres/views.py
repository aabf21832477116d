"""What a view means in SQL: bounds of seqs, bounds of stamps, and whose resources."""

import msgspec

from helios_core import ExportView, Level, SeqRange
from helios_core.fhir import FOREVER, to_stamp


def shown(first: str, end: str) -> str:
    """Say what the versions `v` of a range of seqs satisfy that are shown; see `SHOWN`."""
    return f"""
  AND v.since_stamp <= $3 AND v.since_stamp > $4 AND v.since_stamp < $5
  AND ($6 OR v.patients <> '')
  AND NOT EXISTS (
    SELECT FROM endings AS e
    WHERE e.seq = v.seq AND e.seq >= {first} AND e.seq < {end} AND e.until_stamp <= $3
  )
"""


SHOWN = shown("$1", "$2")
"""What the versions `v` from seq $1 to $2 satisfy that are shown, by `Shown.parameters`."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """Which versions a view shows."""

    at: int
    since: int
    """Shown are versions that became current strictly after it."""
    until: int
    """Shown are versions that became current strictly before it."""
    everybody: bool
    """Whether resources outside every compartment are shown."""

    def parameters(self, seqs: SeqRange) -> tuple[int, int, int, int, int, bool]:
        """Give what `SHOWN` is asked with."""
        return (seqs.first, seqs.end, self.at, self.since, self.until, self.everybody)


def shown_by(view: ExportView) -> Shown:
    """Give which versions a view shows; its cohort is another matter."""
    since, until = view.request.since, view.request.until
    return Shown(
        at=to_stamp(view.transaction_time),
        since=-1 if since is None else to_stamp(since),
        until=FOREVER if until is None else to_stamp(until),
        everybody=view.request.level is Level.SYSTEM or view.cohort is not None,
    )
