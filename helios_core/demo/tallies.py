"""How many resources each level of export has to give, counted in three independent places."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from helios_core.data_providers import DataProvider
from helios_core.exports import Cohort, ExportRequest, ExportView, Level
from helios_core.fhir.versions import FHIRVersion, table

_PATIENT = re.compile(r'"reference":"Patient/([^"]+)"')
_ID = re.compile(r'"id":"([^"]+)"')
_SHARD_BYTES = 64 * 1024 * 1024
_BATCH_BYTES = 4 * 1024 * 1024

Tally = Counter[str]
"""Resources by type."""


def members_in(folder: Path) -> frozenset[str]:
    """Give the ids of the patients of the only Group of a population."""
    return frozenset(_PATIENT.findall((folder / "Group.ndjson").read_text()))


def tally_files(folder: Path) -> dict[Level, Tally]:
    """
    Count the files of a population, without any of the code that exports.

    A population names a patient only where that makes the patient's compartment.
    """
    found = {level: Tally() for level in Level}
    compartment = table(FHIRVersion.R4).compartment_types("Patient")
    members = members_in(folder)
    for resource_type, line in _lines(folder):
        found[Level.SYSTEM][resource_type] += 1
        if resource_type not in compartment:
            continue
        patients = set(_PATIENT.findall(line))
        if resource_type == "Patient":
            patients |= set(_ID.findall(line)[:1])
        found[Level.PATIENT][resource_type] += bool(patients)
        found[Level.GROUP][resource_type] += not members.isdisjoint(patients)
    return {level: +tally for level, tally in found.items()}


async def tally_database(
    provider: DataProvider,
    level: Level,
    *,
    tenant: str,
    at: datetime,
    members: frozenset[str] = frozenset(),
) -> Tally:
    """Count what a provider shows at an instant, around the server."""
    request = ExportRequest(
        tenant=tenant,
        url="",
        fhir_version=FHIRVersion.R4,
        level=level,
        types=tuple(sorted(table(FHIRVersion.R4).types)),
    )
    cohort = Cohort(key="members", patients=members) if level is Level.GROUP else None
    view = ExportView(request=request, transaction_time=at, cohort=cohort)
    found = Tally()
    for shard in await provider.plan(view, shard_bytes=_SHARD_BYTES):
        async for batch in provider.read(view, shard, batch_bytes=_BATCH_BYTES):
            found[shard.resource_type] += len(batch.lines)
    return +found


def _lines(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("*.ndjson")):
        with path.open() as file:
            yield from ((path.stem, line) for line in file)
