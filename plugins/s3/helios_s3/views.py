"""Views and prefilters as conditions on rows."""

import msgspec

from helios_core import ExportView, Level
from helios_core.fhir import FOREVER, AllOf, AnyId, AnyOf, Prefilter, UpdatedWithin, to_stamp
from helios_s3.encoding import Row


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """The rows that a view shows, of those that are current at its transaction time."""

    at: int
    since: int
    """Rows must have become current after this stamp, exclusive."""
    until: int
    """Rows must have become current before this stamp, exclusive."""
    all_resources: bool
    """Whether rows outside of all compartments are shown."""
    patients: frozenset[str] | None
    """The cohort, None without one."""

    @property
    def shows_all(self) -> bool:
        """Whether nearly all rows are shown."""
        return self.patients is None and self.since == -FOREVER and self.until == FOREVER

    def shows(self, row: Row) -> bool:
        """Return whether a row is shown, also for a deletion."""
        if not self.since < row.stamp < self.until:
            return False
        if self.patients is not None:
            return not self.patients.isdisjoint(row.patients.split())
        return self.all_resources or bool(row.patients)

    def may_show(self, *, earliest: int, latest: int) -> bool:
        """Return whether rows with stamps from `earliest` to `latest`, inclusive, may be shown."""
        return earliest <= self.at and earliest < self.until and latest > self.since


def shown_by(view: ExportView) -> Shown:
    """Return the rows that a view shows."""
    since, until = view.request.since, view.request.until
    return Shown(
        at=to_stamp(view.transaction_time),
        since=-FOREVER if since is None else to_stamp(since),
        until=FOREVER if until is None else to_stamp(until),
        all_resources=view.request.level is Level.SYSTEM,
        patients=None if view.cohort is None else view.cohort.patients,
    )


def may_satisfy(prefilter: Prefilter | None, row: Row) -> bool:
    """Return whether a row may satisfy a prefilter, by its id and stamp."""
    match prefilter:
        case AnyId(ids=ids):
            return row.id in ids
        case UpdatedWithin():
            low, high = prefilter.bounds
            return low <= row.stamp <= high
        case AllOf(parts=parts):
            return all(may_satisfy(part, row) for part in parts)
        case AnyOf(parts=parts):
            return any(may_satisfy(part, row) for part in parts)
        case _:
            return True


def ids_in(prefilter: Prefilter | None) -> frozenset[str] | None:
    """Return the ids that may satisfy a prefilter, None for all ids."""
    match prefilter:
        case AnyId(ids=ids):
            return ids
        case AllOf(parts=parts):
            limits = [ids for ids in map(ids_in, parts) if ids is not None]
            return min(limits, key=len, default=None)
        case _:
            return None
