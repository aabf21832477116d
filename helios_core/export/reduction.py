"""Reduce the lines of a store to what an export contains: drop some, and trim others."""

from collections.abc import Sequence

import msgspec

from helios_core.export.disclosure import Disclosure, disclosure
from helios_core.fhir.search import Filter
from helios_core.fhir.subsetting import Trim, keep_elements
from helios_core.model.exports import ExportView
from helios_core.storage.data_provider import Damaged
from helios_core.storage.integrity import DECODE_ERRORS, damaged_json
from helios_core.storage.joined_lines import joined_text

_LINES_PER_TRIM = 64
"""Lines that are decoded before the first is encoded: few enough to stay in a core's cache."""


def make_reducer(view: ExportView, resource_type: str) -> "LineReducer | None":
    """Return the reducer of one resource type, or None if its lines are exported unchanged."""
    request = view.request
    filter_ = view.filters.get(resource_type)
    elements = elements_for(request.elements, resource_type)
    trim = None
    if elements is not None:
        trim = keep_elements(request.fhir_version, resource_type, elements)
    limit = disclosure(view, resource_type)
    if filter_ is None and limit is None and trim is None:
        return None
    return LineReducer(resource_type, filter_, limit, trim)


def elements_for(elements: Sequence[str], resource_type: str) -> frozenset[str] | None:
    """
    Return the elements of one type that `element` and `Type.element` entries name.

    None if no entry applies to the type: then its resources are not trimmed.
    """
    entries = [entry.rpartition(".") for entry in elements]
    names = [element for owner, _, element in entries if owner in ("", resource_type)]
    return frozenset(names) if names else None


class LineReducer:
    """Drops the lines of one type that do not match or must not be exported; trims the others."""

    def __init__(
        self,
        resource_type: str,
        filter_: Filter | None,
        limit: Disclosure | None,
        trim: Trim | None,
    ) -> None:
        self._resource_type = resource_type
        self._filter = filter_
        self._limit = limit
        self._trim = trim
        self.withheld = 0
        """How many matching lines were dropped because they are also about other patients."""

    def __call__(self, lines: Sequence[bytes]) -> tuple[Sequence[bytes], Sequence[Damaged]]:
        """Return the lines to export, and a report for each line that cannot be decoded."""
        try:
            return self._apply(lines), ()
        except DECODE_ERRORS:
            return self._apply_one_by_one(lines)

    def _apply(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        if self._filter is not None:
            matches = self._filter.matches
            lines = [line for line in lines if matches(line)]
        withheld = 0
        if self._limit is not None:
            allowed = [line for line in lines if self._limit.allows(line)]
            withheld, lines = len(lines) - len(allowed), allowed
        if self._trim is not None:
            lines = _trim_lines(self._trim, lines)
        self.withheld += withheld
        return lines

    def _apply_one_by_one(self, lines: Sequence[bytes]) -> tuple[list[bytes], list[Damaged]]:
        kept = list[bytes]()
        damaged = list[Damaged]()
        for line in lines:
            try:
                kept += self._apply([line])
            except DECODE_ERRORS:
                damaged.append(damaged_json(self._resource_type, line))
        return kept, damaged


def _trim_lines(trim: Trim, lines: Sequence[bytes]) -> list[bytes]:
    trimmed = list[bytes]()
    for start in range(0, len(lines), _LINES_PER_TRIM):
        trimmed += trim(joined_text(lines[start : start + _LINES_PER_TRIM]))
    if len(trimmed) != len(lines):
        raise msgspec.DecodeError("a line holds more or less than one resource")
    return trimmed
