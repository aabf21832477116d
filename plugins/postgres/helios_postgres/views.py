"""Views as parameters of SQL statements."""

import msgspec

from helios_core import ExportView, Level, SeqRange
from helios_core.fhir import FOREVER, to_stamp


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """The versions that a view shows, without regard to its cohort."""

    at: int
    since: int
    """Versions must have become current after this stamp, exclusive; -1 without `_since`."""
    until: int
    """Versions must have become current before this stamp, exclusive."""
    all_resources: bool
    """Whether resources outside of all compartments are shown."""

    def parameters(self, seqs: SeqRange) -> tuple[int, int, int, int, int, bool]:
        """Return the parameters $1 to $6 of a statement with the fragment `shown`."""
        return (seqs.first, seqs.end, self.at, self.since, self.until, self.all_resources)


def shown_by(view: ExportView) -> Shown:
    """Return the versions that a view shows, without regard to its cohort."""
    since, until = view.request.since, view.request.until
    return Shown(
        at=to_stamp(view.transaction_time),
        since=-1 if since is None else to_stamp(since),
        until=FOREVER if until is None else to_stamp(until),
        all_resources=view.request.level is Level.SYSTEM or view.cohort is not None,
    )
