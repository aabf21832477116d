"""How many resources each level of export has to give, counted in three independent places."""

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
"""Resources by type."""


def read_group_members(folder: Path) -> frozenset[str]:
    """Give the ids of the patients of the only Group of a population."""
    return frozenset(_PATIENT.findall((folder / "Group.ndjson").read_text()))


class _Context:
    """What exports of patients add because something they show refers to it, each once."""

    def __init__(self, types: Sequence[str]) -> None:
        self._reference = re.compile(rf'"reference":"((?:{"|".join(types)})/[^"]+)"')
        self._named = dict[Level, set[str]]()

    def note(self, level: Level, line: str) -> None:
        """Remember what a line that a level shows refers to."""
        if level is not Level.SYSTEM:
            self._named.setdefault(level, set()).update(self._reference.findall(line))

    def tally(self, level: Level) -> DemoTally:
        """Count what was referred to; all of it is in the population."""
        return DemoTally(name.partition("/")[0] for name in self._named.get(level, ()))


def tally_files(folder: Path, *, referenced_types: Sequence[str]) -> dict[Level, DemoTally]:
    """
    Count the files of a population, without any of the code that exports.

    A population names a patient only where that makes the patient's compartment.
    """
    found = {level: DemoTally() for level in Level}
    context = _Context(referenced_types)
    compartment = load_definitions(FHIRVersion.R4).compartment_types("Patient")
    members = read_group_members(folder)
    for resource_type, line in _lines(folder):
        found[Level.SYSTEM][resource_type] += 1
        if resource_type not in compartment:
            continue
        patients = set(_PATIENT.findall(line))
        if resource_type == "Patient":
            patients |= set(_ID.findall(line)[:1])
        showing = {Level.PATIENT: patients, Level.GROUP: patients & members}
        for level in (level for level, shown in showing.items() if shown):
            found[level][resource_type] += 1
            context.note(level, line)
    return {level: tally + context.tally(level) for level, tally in found.items()}


async def tally_database(  # noqa: PLR0913 - one export, by name
    provider: DataProvider,
    level: Level,
    *,
    tenant: str,
    at: datetime,
    members: frozenset[str] = frozenset(),
    referenced_types: Sequence[str],
) -> DemoTally:
    """Count what a provider shows at an instant, around the server."""
    request = ExportRequest(
        tenant=tenant,
        url="",
        fhir_version=FHIRVersion.R4,
        level=level,
        types=tuple(sorted(load_definitions(FHIRVersion.R4).types)),
    )
    cohort = Cohort(key="members", patients=members) if level is Level.GROUP else None
    view = ExportView(request=request, transaction_time=at, cohort=cohort)
    found, context = DemoTally(), _Context(referenced_types)
    for shard in await provider.plan(view, shard_bytes=_SHARD_BYTES):
        async for batch in provider.read(view, shard, batch_bytes=_BATCH_BYTES):
            found[shard.resource_type] += len(batch.lines)
            for line in batch.lines:
                context.note(level, line.decode())
    return found + context.tally(level)


def _lines(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("*.ndjson")):
        with path.open() as file:
            yield from ((path.stem, line) for line in file)
