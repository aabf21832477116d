"""What becomes of a line between the store and the file: it may be dropped, or trimmed."""

import re
from collections.abc import Sequence

import msgspec

from helios_core.fhir.search import Filter
from helios_core.fhir.subsetting import Trim, keep_elements
from helios_core.model.exports import ExportView
from helios_core.storage.data_provider import Damaged
from helios_core.storage.joined_lines import joined_text

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises where there is no JSON."""


_ID = re.compile(rb'\{"resourceType":"[A-Za-z]+","id":"([A-Za-z0-9\-.]{1,64})"')

_TRIMMED_AT_ONCE = 64
"""Lines that are decoded before the first is encoded: few enough to stay in a core's cache."""


class Transform:
    """Drops and trims the lines of one type."""

    def __init__(self, resource_type: str, found: Filter | None, trim: Trim | None) -> None:
        self._resource_type = resource_type
        self._filter = found
        self._trim = trim

    def __call__(self, lines: Sequence[bytes]) -> tuple[Sequence[bytes], Sequence[Damaged]]:
        """Give what is left of some lines, and which of them cannot be read."""
        try:
            return self._all(lines), ()
        except UNREADABLE:
            return self._one_by_one(lines)

    def _all(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        if self._filter is not None:
            matches = self._filter.matches
            lines = [line for line in lines if matches(line)]
        return lines if self._trim is None else _trimmed(self._trim, lines)

    def _one_by_one(self, lines: Sequence[bytes]) -> tuple[list[bytes], list[Damaged]]:
        left = list[bytes]()
        damaged = list[Damaged]()
        for line in lines:
            try:
                left += self._all([line])
            except UNREADABLE:
                damaged.append(damaged_json(self._resource_type, line))
        return left, damaged


def _trimmed(trim: Trim, lines: Sequence[bytes]) -> list[bytes]:
    left = list[bytes]()
    for start in range(0, len(lines), _TRIMMED_AT_ONCE):
        left += trim(joined_text(lines[start : start + _TRIMMED_AT_ONCE]))
    if len(left) != len(lines):
        raise msgspec.DecodeError("a line holds more or less than one resource")
    return left


def damaged_json(resource_type: str, line: bytes) -> Damaged:
    """Give what to say of a line at which decoding failed."""
    found = _ID.match(line)
    return Damaged(
        resource_type=resource_type,
        id=found[1].decode() if found else "(unknown)",
        reason="its stored content cannot be read as JSON",
    )


def make_transform(view: ExportView, resource_type: str) -> Transform | None:
    """Give what a view does to the lines of a type; None where it takes them as they are."""
    request = view.request
    found = view.filters.get(resource_type)
    asked = elements_for(request.elements, resource_type)
    trim = None if asked is None else keep_elements(request.fhir_version, resource_type, asked)
    return None if found is None and trim is None else Transform(resource_type, found, trim)


def elements_for(elements: Sequence[str], resource_type: str) -> frozenset[str] | None:
    """
    Give what is asked for of one type by `element` and `Type.element`.

    None where nothing is said about the type: all entries begin with the names of other types.
    """
    named = [name.rpartition(".") for name in elements]
    said = [element for owner, _, element in named if owner in ("", resource_type)]
    return frozenset(said) if said else None
