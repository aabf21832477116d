"""The number of resources that an export of each level must have, counted independently."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.model.exports import Cohort, ExportRequest, ExportView, Level
from helios_core.storage.data_provider import DataProvider

_PATIENT = re.compile(r'"reference":"Patient/([^"]+)"')
_ID = re.compile(r'"id":"([^"]+)"')
_SHARD_BYTES = 64 * 1024 * 1024
_BATCH_BYTES = 4 * 1024 * 1024

DemoTally = Counter[str]
"""Numbers of resources by type."""


def read_group_members(folder: Path) -> frozenset[str]:
    """Return the ids of the patients in the only Group of a population."""
    return frozenset(_PATIENT.findall((folder / "Group.ndjson").read_text()))


class _Referenced:
    """The resources that patient and group exports add because exported ones refer to them."""

    def __init__(self, types: Sequence[str]) -> None:
        self._reference = re.compile(rf'"reference":"((?:{"|".join(types)})/[^"]+)"')
        self._references = dict[Level, set[str]]()

    def add(self, level: Level, line: str) -> None:
        """Add the references of a line that an export of this level contains."""
        if level is not Level.SYSTEM:
            self._references.setdefault(level, set()).update(self._reference.findall(line))

    def tally(self, level: Level) -> DemoTally:
        """Count the distinct references by type; each points to a resource of the population."""
        return DemoTally(name.partition("/")[0] for name in self._references.get(level, ()))


def tally_files(folder: Path, *, referenced_types: Sequence[str]) -> dict[Level, DemoTally]:
    """
    Count the lines in the files of a population, without using the code of exports.

    A population refers to patients only through elements that define the Patient compartment.
    """
    exported = {level: DemoTally() for level in Level}
    referenced = _Referenced(referenced_types)
    compartment = load_definitions(FHIRVersion.R4).compartment_types("Patient")
    members = read_group_members(folder)
    for resource_type, line in _lines(folder):
        exported[Level.SYSTEM][resource_type] += 1
        if resource_type not in compartment:
            continue
        patients = set(_PATIENT.findall(line))
        if resource_type == "Patient":
            patients |= set(_ID.findall(line)[:1])
        patients_of = {Level.PATIENT: patients, Level.GROUP: patients & members}
        for level in (level for level, included in patients_of.items() if included):
            exported[level][resource_type] += 1
            referenced.add(level, line)
    return {level: tally + referenced.tally(level) for level, tally in exported.items()}


async def tally_database(  # noqa: PLR0913 - most of them by keyword
    provider: DataProvider,
    level: Level,
    *,
    tenant: str,
    at: datetime,
    members: frozenset[str] = frozenset(),
    referenced_types: Sequence[str],
) -> DemoTally:
    """Count what a data provider contains at an instant, bypassing the server."""
    request = ExportRequest(
        tenant=tenant,
        url="",
        fhir_version=FHIRVersion.R4,
        level=level,
        types=tuple(sorted(load_definitions(FHIRVersion.R4).types)),
    )
    cohort = Cohort(key="members", patients=members) if level is Level.GROUP else None
    view = ExportView(request=request, transaction_time=at, cohort=cohort)
    stored, referenced = DemoTally(), _Referenced(referenced_types)
    for shard in await provider.plan(view, shard_bytes=_SHARD_BYTES):
        async for batch in provider.read(view, shard, batch_bytes=_BATCH_BYTES):
            stored[shard.resource_type] += len(batch.lines)
            for line in batch.lines:
                referenced.add(level, line.decode())
    return stored + referenced.tally(level)


def _lines(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("*.ndjson")):
        with path.open() as file:
            yield from ((path.stem, line) for line in file)
