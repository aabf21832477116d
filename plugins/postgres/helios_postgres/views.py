"""What a view means in SQL: bounds of seqs, bounds of stamps, and whose resources."""

import msgspec

from helios_core import ExportView, Level, SeqRange
from helios_core.fhir import FOREVER, to_stamp


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
        """Return the parameters $1 to $6 of a statement with the fragment `shown`."""
        return (seqs.first, seqs.end, self.at, self.since, self.until, self.everybody)


def shown_by(view: ExportView) -> Shown:
    """Return which versions a view shows, its cohort aside."""
    since, until = view.request.since, view.request.until
    return Shown(
        at=to_stamp(view.transaction_time),
        since=-1 if since is None else to_stamp(since),
        until=FOREVER if until is None else to_stamp(until),
        everybody=view.request.level is Level.SYSTEM or view.cohort is not None,
    )
