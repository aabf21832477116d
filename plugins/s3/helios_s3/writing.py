"""Writing: changes are applied to the current versions, and become the next commit."""

from collections import defaultdict
from collections.abc import Sequence
from uuid import uuid4

from helios_core import (
    AppliedChange,
    BackendUnavailable,
    Delete,
    Put,
    TypeKey,
    VersionConflict,
    decide,
    in_thread,
    line_hash,
)
from helios_core.fhir import FHIRVersion, from_stamp
from helios_s3.encoding import Commit, Row, collection_of, deletion
from helios_s3.log import Moment
from helios_s3.objects import MissingObject
from helios_s3.rows import Rows

ATTEMPTS = 1000
"""How often a write is tried while other writers are faster."""


async def write(
    rows: Rows, tenant: str, fhir_version: FHIRVersion, changes: Sequence[Put | Delete]
) -> list[AppliedChange]:
    """
    Apply changes in order, in one commit under one stamp.

    The log is not read if this process was the last to write: if its commit gets the next number,
    the versions that it was based on were current.

    Raises:
        VersionConflict: An `if_match` failed.
        BackendUnavailable: The bucket cannot be used.
    """
    log, token, known = rows.log, uuid4().hex, False
    ids = defaultdict[str, set[str]](set)
    for change in changes:
        ids[collection_of(TypeKey(tenant, fhir_version, change.resource_type))].add(change.id)
    for _ in range(ATTEMPTS):
        if not log.state.trusted:
            await log.refresh()
            known = True
        state = log.state
        number, stamp = state.number, log.next_stamp()
        try:
            current = await _current(rows, state.moment, ids)
        except MissingObject:
            await log.reload()
            continue
        draft = _Draft(tenant, fhir_version, stamp, current)
        try:
            applied = await in_thread(draft.apply, changes)
        except VersionConflict:
            if known and log.state is state and state.number == number:
                raise
            applied = None
        if applied is not None and draft.rows:
            by_collection = tuple((key, tuple(own)) for key, own in draft.rows.items())
            commit = Commit(number + 1, token, stamp, by_collection)
            if await log.append(state, commit, draft.lines()):
                return applied
        elif applied is not None and known and log.state is state and state.number == number:
            return applied
        await log.refresh()
        known = True
    raise BackendUnavailable(
        f"other writers were faster in {ATTEMPTS} attempts to commit; try again later"
    )


async def settle(rows: Rows) -> int:
    """Return a stamp of about now that every later write exceeds (P1)."""
    log, token = rows.log, uuid4().hex
    for _ in range(ATTEMPTS):
        await log.refresh()
        state = log.state
        number, stamp = state.number, log.settled_stamp()
        if stamp == state.stamp or await log.append(state, Commit(number + 1, token, stamp)):
            return stamp
    raise BackendUnavailable(
        f"other writers were faster in {ATTEMPTS} attempts to commit; try again later"
    )


class _Draft:
    """The rows and lines of one commit, resulting from changes of the current versions."""

    def __init__(
        self,
        tenant: str,
        fhir_version: FHIRVersion,
        stamp: int,
        current: dict[str, dict[str, Row]],
    ) -> None:
        self.rows = defaultdict[str, list[Row]](list)
        self._lines = defaultdict[str, list[bytes]](list)
        self._tenant = tenant
        self._fhir_version = fhir_version
        self._stamp = stamp
        self._instant = from_stamp(stamp)
        self._current = current

    def apply(self, changes: Sequence[Put | Delete]) -> list[AppliedChange]:
        """Apply changes in order, and return the outcome of each."""
        return [self._apply(change) for change in changes]

    def lines(self) -> list[bytes]:
        """Return the lines of the rows, in the order of the rows."""
        return [line for key in self.rows for line in self._lines[key]]

    def _apply(self, change: Put | Delete) -> AppliedChange:
        key = collection_of(TypeKey(self._tenant, self._fhir_version, change.resource_type))
        current = self._current[key].get(change.id)
        decision = decide(change, current)
        if decision.makes_version:
            if isinstance(change, Put):
                resource = change.resource
                line = resource.stamped(decision.version_id, self._instant)
                before = "" if current is None else current.patients
                self._lines[key].append(line)
                row = Row(
                    change.id,
                    decision.version_id,
                    self._stamp,
                    len(line),
                    resource.content_hash,
                    line_hash(line),
                    " ".join(resource.patients),
                    " ".join({*before.split()} - {*resource.patients}),
                )
            else:
                patients = "" if current is None else current.patients
                row = deletion(change.id, decision.version_id, self._stamp, patients)
            self.rows[key].append(row)
            self._current[key][change.id] = current = row
        return decision.applied(None if current is None else from_stamp(current.stamp))


async def _current(
    rows: Rows, moment: Moment, ids: dict[str, set[str]]
) -> dict[str, dict[str, Row]]:
    """Return the newest row of each id, by collection and id."""
    return {
        collection: {
            resource_id: found[-1].row
            for resource_id, found in (await rows.find_in(moment, collection, own)).items()
        }
        for collection, own in ids.items()
    }
