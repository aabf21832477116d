"""What becomes of a line between the store and the file: it may be dropped, or trimmed."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from helios_core.data_providers import Damaged
from helios_core.exports import ExportView
from helios_core.fhir.elements import kept
from helios_core.fhir.search import Filter
from helios_core.fhir.versions import FHIRVersion
from helios_core.framed import text_of

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises where there is no JSON."""

_SUBSETTED = (
    b'{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}'
)
_ONLY_TAG = b',"tag":[' + _SUBSETTED + b"]}"
_EMPTY = b"{}"
_ID = re.compile(rb'\{"resourceType":"[A-Za-z]+","id":"([A-Za-z0-9\-.]{1,64})"')

_TRIMMED_AT_ONCE = 64
"""Lines that are decoded before the first is encoded: few enough to stay in a core's cache."""

Trim = Callable[[bytes], list[bytes]]
"""Takes lines of NDJSON and gives what is left of each."""


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
                damaged.append(undecodable(self._resource_type, line))
        return left, damaged


def _trimmed(trim: Trim, lines: Sequence[bytes]) -> list[bytes]:
    left = list[bytes]()
    for start in range(0, len(lines), _TRIMMED_AT_ONCE):
        left += trim(text_of(lines[start : start + _TRIMMED_AT_ONCE]))
    if len(left) != len(lines):
        raise msgspec.DecodeError("a line holds more or less than one resource")
    return left


def undecodable(resource_type: str, line: bytes) -> Damaged:
    """Give what to say of a line at which decoding failed."""
    found = _ID.match(line)
    return Damaged(
        resource_type=resource_type,
        id=found[1].decode() if found else "(unknown)",
        reason="its stored content cannot be read as JSON",
    )


def transform_of(view: ExportView, resource_type: str) -> Transform | None:
    """Give what a view does to the lines of a type; None where it takes them as they are."""
    request = view.request
    found = view.filters.get(resource_type)
    asked = elements_of(request.elements, resource_type)
    trim = None if asked is None else keep_elements(request.fhir_version, resource_type, asked)
    return None if found is None and trim is None else Transform(resource_type, found, trim)


def elements_of(elements: Sequence[str], resource_type: str) -> frozenset[str] | None:
    """
    Give what is asked for of one type by `element` and `Type.element`.

    None where nothing is said about the type: all entries begin with the names of other types.
    """
    named = [name.rpartition(".") for name in elements]
    said = [element for owner, _, element in named if owner in ("", resource_type)]
    return frozenset(said) if said else None


def keep_elements(version: FHIRVersion, resource_type: str, elements: Collection[str]) -> Trim:
    """
    Give what cuts resources down to these root elements and the mandatory ones.

    Names are taken as `helios_core.fhir.elements.spelt_out` does; unknown ones keep nothing.
    Values are copied byte by byte, so that numbers keep their text, and the result is tagged as
    SUBSETTED (FHIR R4, 3.1.0.1.5).
    """
    return _trimming(kept(version, resource_type, elements))


@lru_cache(maxsize=256)
def _trimming(names: frozenset[str]) -> Trim:
    fields = list(_fields(names))
    # The attributes need other names than the JSON, which may be what Python keeps for itself.
    shape: Any = msgspec.defstruct(
        "Trimmed",
        [(attribute, Raw | UnsetType, _absent(name)) for attribute, name in fields],
        rename=dict(fields),
        gc=False,
    )
    decode = msgspec.json.Decoder(shape).decode_lines
    encode = msgspec.json.Encoder().encode_lines

    def trim(text: bytes) -> list[bytes]:
        resources = decode(text)
        metas = [bytes(resource.meta) for resource in resources]
        plain = _have_no_tag(metas)
        for resource, meta in zip(resources, metas, strict=True):
            resource.meta = Raw(meta[:-1] + _ONLY_TAG if plain else _tagged(meta))
        return encode(resources).split(b"\n")[:-1]

    return trim


def _have_no_tag(metas: Sequence[bytes]) -> bool:
    """Whether a tag can go to the end of each, found out at once: each look costs 0.1 us."""
    together = b"".join(metas)
    # `in` takes twice as long: it first tries whether the bytes are a number.
    return all(together.find(each) < 0 for each in (b'"tag"', b"\\", _EMPTY))


def _absent(name: str) -> Raw | UnsetType:
    """Give what stands for an element that is not there: only the tag needs meta."""
    return Raw(_EMPTY) if name == "meta" else UNSET


def _fields(names: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Give attributes and JSON names, in the order in which they are written."""
    yield "resource_type", "resourceType"
    yield "id", "id"
    yield "meta", "meta"
    rest = sorted(names - {"resourceType", "id", "meta"})
    for number, name in enumerate(["id", "meta", *rest]):
        yield f"extension_{number}", f"_{name}"
    for number, name in enumerate(rest):
        yield f"element_{number}", name


def _tagged(text: bytes) -> bytes:
    """Give any meta with the tag SUBSETTED, once."""
    meta = msgspec.json.decode(text, type=dict[str, Raw])
    tags = msgspec.json.decode(meta.get("tag", b"[]"), type=list[Raw])
    if not any(map(_is_subsetted, tags)):
        tags.append(Raw(_SUBSETTED))
    meta["tag"] = Raw(msgspec.json.encode(tags))
    return msgspec.json.encode(meta)


class _Coding(msgspec.Struct):
    system: object = None
    code: object = None


def _is_subsetted(tag: Raw) -> bool:
    return msgspec.json.decode(tag, type=_Coding) == _SUBSETTED_CODING


_SUBSETTED_CODING = msgspec.json.decode(_SUBSETTED, type=_Coding)
