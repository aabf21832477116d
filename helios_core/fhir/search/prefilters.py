"""
What an index can know about a resource, and what a search can ask of it.

A prefilter is a necessary condition: every resource that matches the search satisfies it, some
that do not may. It is a tree of `AllOf` and `AnyOf` over `AnyTerm`, `SpanWithin`, `AnyId` and
`UpdatedWithin`.
"""

from collections.abc import Iterable

import msgspec
from xxhash import xxh3_64_intdigest

from helios_core.hashes import to_signed

TERMS_VERSION = 1
"""Grows with every change of what `terms_of` gives, so that stores know to index again."""

_LOWEST = -1 << 63
_HIGHEST = (1 << 63) - 1


class IndexTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What to index of a resource."""

    terms: frozenset[int] = frozenset()
    """Signed 64-bit numbers."""
    spans: tuple[tuple[int, int, int], ...] = ()
    """Group, first and last microsecond since 1970; group is signed, open ends are far away."""


class AnyTerm(msgspec.Struct, frozen=True):
    """At least one of these terms; none given is never true."""

    terms: frozenset[int]


class SpanWithin(msgspec.Struct, frozen=True, kw_only=True):
    """At least one span of the group lies so; all bounds are inclusive, None bounds nothing."""

    group: int
    low_from: int | None = None
    low_to: int | None = None
    high_from: int | None = None
    high_to: int | None = None

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """All four bounds in their order, as 64-bit numbers where there is none."""
        return *_closed(self.low_from, self.low_to), *_closed(self.high_from, self.high_to)


class AnyId(msgspec.Struct, frozen=True):
    """The resource has one of these ids."""

    ids: frozenset[str]


class UpdatedWithin(msgspec.Struct, frozen=True, kw_only=True):
    """The version is from these microseconds since 1970; inclusive, None bounds nothing."""

    since: int | None = None
    until: int | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """Both bounds, as 64-bit numbers where there is none."""
        return _closed(self.since, self.until)


class AllOf(msgspec.Struct, frozen=True):
    """All of these are satisfied."""

    parts: "tuple[Prefilter, ...]"


class AnyOf(msgspec.Struct, frozen=True):
    """At least one of these is satisfied."""

    parts: "tuple[Prefilter, ...]"


Prefilter = AnyTerm | SpanWithin | AnyId | UpdatedWithin | AllOf | AnyOf


def prefix(group: str, kind: str) -> str:
    """Give what the canonical text of every term of one kind at one place begins with."""
    return f"{group}|{kind}|"


def term(group: str, kind: str, text: str) -> int:
    """Give the number under which a value at a place is indexed."""
    return number(prefix(group, kind) + text)


def number(text: str) -> int:
    """Give the signed 64-bit number of a canonical text."""
    return to_signed(xxh3_64_intdigest(text.encode()))


def all_prefilters(prefilters: Iterable[Prefilter | None]) -> Prefilter | None:
    """Give what all of these demand; those that are None demand nothing."""
    parts = tuple(dict.fromkeys(each for each in prefilters if each is not None))
    return AllOf(parts) if len(parts) > 1 else next(iter(parts), None)


def any_prefilter(prefilters: Iterable[Prefilter | None]) -> Prefilter | None:
    """Give what at least one of these demands: nothing, if one demands nothing."""
    parts: list[Prefilter] = []
    terms: set[int] = set()
    for each in prefilters:
        if each is None:
            return None
        if isinstance(each, AnyTerm):
            terms |= each.terms
        else:
            parts.append(each)
    # Terms in one set make one list to look up.
    merged = [AnyTerm(frozenset(terms))] if terms or not parts else []
    unique = tuple(dict.fromkeys([*merged, *parts]))
    return AnyOf(unique) if len(unique) > 1 else unique[0]


def satisfies(prefilter: Prefilter, terms: IndexTerms, *, resource_id: str, updated: int) -> bool:
    """Tell whether a resource satisfies a prefilter; `updated` in microseconds since 1970."""
    match prefilter:
        case AnyTerm(wanted):
            return not wanted.isdisjoint(terms.terms)
        case SpanWithin():
            return any(_lies(prefilter, *span) for span in terms.spans)
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
    """Rank by what looking it up in an index costs, for parts that must all be satisfied."""
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


def _closed(first: int | None, last: int | None) -> tuple[int, int]:
    return _LOWEST if first is None else first, _HIGHEST if last is None else last


def _lies(span: SpanWithin, group: int, low: int, high: int) -> bool:
    return (
        group == span.group
        and _between(span.low_from, low, span.low_to)
        and _between(span.high_from, high, span.high_to)
    )


def _between(first: int | None, value: int, last: int | None) -> bool:
    return (first is None or first <= value) and (last is None or value <= last)
