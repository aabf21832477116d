"""
Count the resources that output organized by Patient leaves out, because they are in no block.

The shards of blocks read by patient and never see such a resource: at system level a Practitioner,
and at every level a resource that refers only to patients who are not stored.
"""

import asyncio
from collections.abc import Collection, Sequence

import msgspec

from helios_core.export.cohorts import newcomers_view
from helios_core.export.filters import read_filtered
from helios_core.export.pipeline.reference_notes import BINARY
from helios_core.export.reduction import LineReducer, make_reducer
from helios_core.fhir.compartments import patients_of
from helios_core.fhir.definitions import load_definitions
from helios_core.fhir.references import base_urls, decode_links
from helios_core.model.exports import ExportView
from helios_core.storage.backends import Backends
from helios_core.storage.data_provider import WHOLE_TYPE
from helios_core.storage.integrity import DECODE_ERRORS
from helios_core.storage.resource_keys import TypeKey

MAX_KNOWN_PATIENTS = 100_000
"""How many stored patients are remembered at most; then they are forgotten and looked up again."""

UnorganizedLine = tuple[bytes, Collection[str]]
"""A line, and the ids of the patients in whose blocks it is, provided that they are stored."""


class UnorganizedCounter:
    """Counts the resources of one view, and of its newcomers, that are in no block."""

    def __init__(self, backends: Backends, view: ExportView, *, batch_bytes: int) -> None:
        self._backends = backends
        self._view = view
        self._batch_bytes = batch_bytes
        self._stored = set[str]()
        self.has_binaries = False
        """Whether there are Binary resources, which belong to no block and are not counted."""

    async def count(self) -> int:
        """Read all resources of the export, and return the number of those in no block."""
        total = await self._count(self._view)
        if (older := newcomers_view(self._view)) is not None:
            total += await self._count(older)
        return total

    async def _count(self, view: ExportView) -> int:
        total, provider = 0, self._backends.data_provider
        untrimmed = msgspec.structs.replace(view.request, elements=())
        for shard in await provider.plan(view, shard_bytes=WHOLE_TYPE):
            name = shard.resource_type
            if name == BINARY:
                self.has_binaries = True
                continue
            filter_ = make_reducer(msgspec.structs.replace(view, request=untrimmed), name)
            batches = read_filtered(
                provider,
                view,
                shard,
                filter_=view.filters.get(name),
                batch_bytes=self._batch_bytes,
            )
            async for batch in batches:
                total += await self._count_lines(name, filter_, batch.lines)
        return total

    async def _count_lines(
        self, resource_type: str, filter_: LineReducer | None, lines: Sequence[bytes]
    ) -> int:
        placed = await asyncio.to_thread(self._candidates, resource_type, filter_, lines)
        await self._look_up({patient for _, patients in placed for patient in patients})
        left_out = [line for line, patients in placed if self._stored.isdisjoint(patients)]
        key = TypeKey.of(self._view.request, resource_type)
        exported = await self._backends.transforms.apply(key, left_out)
        return sum(line is not None for line in exported.lines)

    def _candidates(
        self, resource_type: str, filter_: LineReducer | None, lines: Sequence[bytes]
    ) -> list[UnorganizedLine]:
        """Return the lines that match, with the patients in whose blocks they may be."""
        request, cohort = self._view.request, self._view.cohort
        if filter_ is not None:
            lines, _ = filter_(lines)
        if resource_type not in load_definitions(request.fhir_version).compartment_types(
            "Patient"
        ):
            return [(line, ()) for line in lines]
        bases, placed = base_urls(request.base_url), list[UnorganizedLine]()
        for line in lines:
            try:
                patients = patients_of(decode_links(line), request.fhir_version, bases)
            except DECODE_ERRORS:
                continue  # reported as damaged where its block is written
            if cohort is not None:
                patients = tuple(patient for patient in patients if patient in cohort.patients)
            placed.append((line, patients))
        return placed

    async def _look_up(self, patients: set[str]) -> None:
        """Remember which of the patients are stored."""
        if len(self._stored) > MAX_KNOWN_PATIENTS:
            self._stored.clear()
        unknown = patients - self._stored
        if unknown:
            key, at = TypeKey.of(self._view.request, "Patient"), self._view.transaction_time
            missing = await self._backends.data_provider.missing(key, unknown, at=at)
            self._stored |= unknown - missing
