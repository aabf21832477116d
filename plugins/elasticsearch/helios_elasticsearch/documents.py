"""Documents: index entries as Elasticsearch stores and returns them."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from helios_core import IndexedVersion, IndexEntry, SortOrder
from helios_core.fhir import Extremes, IndexTerms, ValueOrder
from helios_elasticsearch.mappings import end_field, value_field

SIGN = 1 << 63
"""Added to a signed 64-bit number, it makes an unsigned one and keeps the order."""

BATCH_BYTES = 4 * 1024 * 1024
"""The largest bulk request in bytes, unless a single entry is larger."""

_HALF = (1 << 64) - 1


class Bounds(msgspec.Struct, frozen=True):
    """An interval of IPv6 addresses, both ends inclusive; see `address`."""

    gte: str
    lte: str


class _Document(msgspec.Struct, frozen=True, omit_defaults=True):
    collection: str
    id: str
    version: int
    updated: int
    live: str | None = None
    terms: Sequence[int] = ()
    spans: Sequence[Bounds] = ()
    starts: Sequence[str] = ()
    values: dict[str, int | Sequence[int]] = msgspec.field(default_factory=dict)


class _Indexed(msgspec.Struct, frozen=True):
    """The fields that the search terms of an entry are decoded from."""

    terms: Sequence[int] = ()
    spans: Sequence[Bounds] = ()

    def decode(self) -> IndexTerms:
        """Return the terms of the entry that was stored."""
        spans = ((number_of(span.gte), number_of(span.lte)) for span in self.spans)
        return IndexTerms(
            terms=frozenset(self.terms),
            spans=tuple(
                ((low >> 64) - SIGN, (low & _HALF) - SIGN, (high & _HALF) - SIGN)
                for low, high in spans
            ),
        )


class _Fields(msgspec.Struct, frozen=True):
    id: tuple[str]
    version: tuple[int]
    updated: tuple[int]
    live: Sequence[str] = ()


class Hit(msgspec.Struct, frozen=True):
    """A document that was found."""

    fields: _Fields
    source: _Indexed = msgspec.field(name="_source", default=_Indexed())
    sort: Sequence[Any] = ()

    def version(self, order: SortOrder | ValueOrder) -> IndexedVersion:
        """Return the entry of a hit; it has a `value` if it was sorted by a value."""
        fields = self.fields
        return IndexedVersion(
            id=fields.id[0],
            version_id=fields.version[0],
            updated=fields.updated[0],
            deleted=not fields.live,
            value=self._value() if isinstance(order, ValueOrder) else None,
        )

    def _value(self) -> tuple[int, int] | None:
        first, last, _ = self.sort
        return None if first in WITHOUT_VALUE.values() else (first, last)


WITHOUT_VALUE = {False: SIGN - 1, True: -SIGN}
"""What Elasticsearch returns as the sort value of a missing number, by `descending`."""

FIELDS = list(_Fields.__struct_fields__)
"""The fields that are requested of every hit."""

INDEXED = list(_Indexed.__struct_fields__)
"""The parts of the source that are also requested when hits have to be checked."""


class Batch(msgspec.Struct, frozen=True):
    """The lines of one bulk request."""

    lines: bytes
    operations: int


def encode(entries: Iterable[IndexEntry], build: str) -> list[Batch]:
    """Return bulk requests that store entries, except those of which a newer version is stored."""
    encoder, lines = msgspec.json.Encoder(), list[bytes]()
    batches, size = list[Batch](), 0
    for entry in entries:
        of_type = collection(build, entry.resource_type)
        action = {
            "_id": f"{of_type}/{entry.id}",
            "version": entry.version_id,
            "version_type": "external_gte",
        }
        own = encoder.encode_lines([{"index": action}, _document(entry, of_type)])
        if lines and size + len(own) > BATCH_BYTES:
            batches.append(Batch(b"".join(lines), len(lines)))
            lines, size = [], 0
        lines.append(own)
        size += len(own)
    if lines:
        batches.append(Batch(b"".join(lines), len(lines)))
    return batches


def encode_deletions(names: Iterable[str]) -> bytes:
    """Return the lines of a bulk request that removes documents."""
    return msgspec.json.Encoder().encode_lines([{"delete": {"_id": name}} for name in names])


def build_prefix(build: str) -> str:
    """Return the prefix of all collections of a build."""
    return f"{build}/"


def collection(build: str, resource_type: str) -> str:
    """Return the name of the collection of one resource type in a build."""
    return build_prefix(build) + resource_type


def address(group: int, instant: int) -> str:
    """Return two signed 64-bit numbers as one IPv6 address, which sorts as the pair does."""
    text = f"{(group + SIGN) << 64 | (instant + SIGN):032x}"
    return ":".join([text[offset : offset + 4] for offset in range(0, 32, 4)])


def number_of(text: str) -> int:
    """Return the 128-bit number of an address that `address` returned."""
    return int(text.replace(":", ""), 16)


def _document(entry: IndexEntry, of_type: str) -> _Document:
    indexed: dict[str, Any] = {}
    if (terms := entry.terms) is not None:
        indexed = {
            "live": of_type,
            "terms": list(terms.terms),
            "spans": [
                Bounds(address(group, low), address(group, high))
                for group, low, high in terms.spans
            ],
        }
        indexed["starts"] = [span.gte for span in indexed["spans"]]
        indexed["values"] = _values(entry.values)
    return _Document(
        collection=of_type,
        id=entry.id,
        version=entry.version_id,
        updated=entry.updated,
        **indexed,
    )


def _values(values: Sequence[Extremes | None]) -> dict[str, int | Sequence[int]]:
    fields = dict[str, int | Sequence[int]]()
    for number, extremes in enumerate(values):
        if extremes is None:
            continue
        least, greatest = extremes.least, extremes.greatest
        # Of two numbers, an ascending order sorts by the lower, a descending one by the higher.
        both = least[0] != greatest[0]
        fields[value_field(number)] = [least[0], greatest[0]] if both else least[0]
        fields[end_field(number, descending=False)] = least[1]
        fields[end_field(number, descending=True)] = greatest[1]
    return fields
