"""TODO."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.elements import kept_names

_SUBSETTED = (
    b'{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}'
)
_ONLY_TAG = b',"tag":[' + _SUBSETTED + b"]}"
_EMPTY = b"{}"


Trim = Callable[[bytes], list[bytes]]
"""Takes lines of NDJSON and gives what is left of each."""


def keep_elements(version: FHIRVersion, resource_type: str, elements: Collection[str]) -> Trim:
    """
    Give what cuts resources down to these root elements and the mandatory ones.

    Names are taken as `helios_core.fhir.elements.spelt_out` does; unknown ones keep nothing.
    Values are copied byte by byte, so that numbers keep their text, and the result is tagged as
    SUBSETTED (FHIR R4, 3.1.0.1.5).
    """
    return _trimming(kept_names(version, resource_type, elements))


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
