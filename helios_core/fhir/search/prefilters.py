"""
Prefilters: conditions of a search that an index can look up.

A prefilter is necessary but not sufficient: every resource that matches the search satisfies it,
and so may resources that do not match. It is a tree of `AllOf` and `AnyOf` over `AnyTerm`,
`SpanWithin`, `AnyId` and `UpdatedWithin`.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

import msgspec
from xxhash import xxh3_64_intdigest

from helios_core.hashes import to_signed

TERMS_VERSION = 1
"""Incremented when `terms_of` changes; a store with an older index must rebuild it."""

_LOWEST = -1 << 63
_HIGHEST = (1 << 63) - 1


class IndexTerms(msgspec.Struct, frozen=True, kw_only=True):
    """The terms and spans to index of a resource."""

    terms: frozenset[int] = frozenset()
    """Signed 64-bit hashes."""
    spans: tuple[tuple[int, int, int], ...] = ()
    """
    The signed 64-bit hash of a group, and the first and the last microsecond since 1970.

    An open end is `EARLIEST` or `LATEST` of `helios_core.fhir.search.dates`.
    """


class AnyTerm(msgspec.Struct, frozen=True):
    """The resource has at least one of these terms; never satisfied if there are none."""

    terms: frozenset[int]
    """Signed 64-bit numbers, as in `IndexTerms`."""


class SpanWithin(msgspec.Struct, frozen=True, kw_only=True):
    """
    The resource has a span of the group whose first and last microsecond are within bounds.

    `low_from` and `low_to` bound the first microsecond, `high_from` and `high_to` the last one.
    Bounds are inclusive; None is no bound.
    """

    group: int
    """A signed 64-bit number, as in `IndexTerms`."""
    low_from: int | None = None
    low_to: int | None = None
    high_from: int | None = None
    high_to: int | None = None

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """Return the bounds in their order, with the lowest or highest 64-bit integer for None."""
        return *_closed(self.low_from, self.low_to), *_closed(self.high_from, self.high_to)


class AnyId(msgspec.Struct, frozen=True):
    """The resource has one of these ids."""

    ids: frozenset[str]


class UpdatedWithin(msgspec.Struct, frozen=True, kw_only=True):
    """
    The `meta.lastUpdated` of the version is between two bounds, in microseconds since 1970.

    `since` and `until` are inclusive; None is no bound.
    """

    since: int | None = None
    until: int | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """Return both bounds, with the lowest or highest 64-bit integer for None."""
        return _closed(self.since, self.until)


class AllOf(msgspec.Struct, frozen=True):
    """All of these are satisfied."""

    parts: "tuple[Prefilter, ...]"


class AnyOf(msgspec.Struct, frozen=True):
    """At least one of these is satisfied."""

    parts: "tuple[Prefilter, ...]"


Prefilter = AnyTerm | SpanWithin | AnyId | UpdatedWithin | AllOf | AnyOf
"""A condition that every match of a search satisfies, and that an index can look up."""


def term_prefix(group: str, kind: str) -> str:
    """Return the beginning of the text of every term of one kind in one group."""
    return f"{group}|{kind}|"


def term_hash(group: str, kind: str, text: str) -> int:
    """Return the term under which a value of a group is indexed."""
    return hash_text(term_prefix(group, kind) + text)


def hash_text(text: str) -> int:
    """Return the xxh3_64 of a text as a signed integer."""
    return to_signed(xxh3_64_intdigest(text.encode()))


def all_prefilters(prefilters: Iterable[Prefilter | None]) -> Prefilter | None:
    """Return the prefilter that requires all of these; None requires nothing."""
    parts = tuple(dict.fromkeys(part for part in prefilters if part is not None))
    return AllOf(parts) if len(parts) > 1 else next(iter(parts), None)


def any_prefilter(prefilters: Iterable[Prefilter | None]) -> Prefilter | None:
    """Return the prefilter that requires at least one of these; None requires nothing."""
    parts: list[Prefilter] = []
    terms: set[int] = set()
    ids: set[str] = set()
    for prefilter in prefilters:
        if prefilter is None:
            return None
        if isinstance(prefilter, AnyTerm):
            terms |= prefilter.terms
        elif isinstance(prefilter, AnyId):
            ids |= prefilter.ids
        else:
            parts.append(prefilter)
    # One set of terms, or of ids, takes one lookup.
    merged: list[Prefilter] = [AnyId(frozenset(ids))] if ids else []
    if terms or not (parts or ids):
        merged.append(AnyTerm(frozenset(terms)))
    unique = tuple(dict.fromkeys([*merged, *parts]))
    return AnyOf(unique) if len(unique) > 1 else unique[0]


def satisfies(prefilter: Prefilter, terms: IndexTerms, *, resource_id: str, updated: int) -> bool:
    """Return whether a resource satisfies a prefilter; `updated` is microseconds since 1970."""
    match prefilter:
        case AnyTerm(any_of):
            return not any_of.isdisjoint(terms.terms)
        case SpanWithin():
            return any(_span_within(prefilter, *span) for span in terms.spans)
        case AnyId(ids):
            return resource_id in ids
        case UpdatedWithin(since=since, until=until):
            return _between(since, updated, until)
        case AllOf(parts):
            return all(
                satisfies(part, terms, resource_id=resource_id, updated=updated) for part in parts
            )
        case AnyOf(parts):
            return any(
                satisfies(part, terms, resource_id=resource_id, updated=updated) for part in parts
            )


def lookup_cost(prefilter: Prefilter) -> int:
    """Return the rank of a prefilter by the cost of looking it up in an index; 0 is cheapest."""
    match prefilter:
        case AnyId():
            return 0
        case AnyTerm():
            return 1
        case AllOf(parts):
            return min(map(lookup_cost, parts))
        case AnyOf(parts):
            return max(map(lookup_cost, parts))
        case SpanWithin():
            return 3
    return 2


def id_term(resource_id: str) -> int:
    """Return the term for the id of a resource, as `necessary_terms` uses it."""
    return hash_text(resource_id)


def necessary_terms(prefilter: Prefilter | None) -> AbstractSet[int] | None:
    """
    Return terms of which every resource that satisfies a prefilter has at least one.

    Return None if no such terms are known. The terms of a resource are those of its index entry
    and the `id_term` of its id.
    """
    match prefilter:
        case AnyTerm(terms):
            return terms
        case AnyId(ids):
            return frozenset(map(id_term, ids))
        case AllOf(parts):
            by_part = map(necessary_terms, parts)
            return next((known for known in by_part if known is not None), None)
        case AnyOf(parts):
            union = set[int]()
            for part in parts:
                if (known := necessary_terms(part)) is None:
                    return None
                union |= known
            return union
    return None


def _closed(first: int | None, last: int | None) -> tuple[int, int]:
    return _LOWEST if first is None else first, _HIGHEST if last is None else last


def _span_within(span: SpanWithin, group: int, low: int, high: int) -> bool:
    return (
        group == span.group
        and _between(span.low_from, low, span.low_to)
        and _between(span.high_from, high, span.high_to)
    )


def _between(first: int | None, value: int, last: int | None) -> bool:
    return (first is None or first <= value) and (last is None or value <= last)
