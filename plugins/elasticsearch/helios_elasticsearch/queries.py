"""Prefilters as queries of Elasticsearch, within its limits."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, TypeAlias

import msgspec

from helios_core import DESCENDING_ORDERS, ID_ORDERS, IndexedVersion, IndexQuery, SortOrder
from helios_core.fhir import (
    AllOf,
    AnyId,
    AnyOf,
    AnyTerm,
    Prefilter,
    SpanWithin,
    UpdatedWithin,
    ValueOrder,
    lookup_cost,
)
from helios_elasticsearch.documents import WITHOUT_VALUE, address
from helios_elasticsearch.mappings import MAX_VALUES, end_field, value_field

MAX_CLAUSES = 900
"""How many conditions one query may have; Elasticsearch allows 1,024 (max_clause_count)."""

Query: TypeAlias = dict[str, Any]

_EVERYTHING = 1 << 30
"""The rank of a condition that all entries satisfy."""

_NOTHING: Query = {"match_none": {}}


class Request(msgspec.Struct, frozen=True):
    """A query that finds every entry that is requested, and maybe more."""

    query: Query
    exact: bool
    """Whether it finds nothing else; otherwise each hit has to be checked."""


def requests(collection: str, query: IndexQuery) -> list[Request]:
    """Return the queries that together find what is requested; it is one in most cases."""
    found = _requests({"term": {"live": collection}}, query.prefilter)
    if query.changed_after is not None:
        changed = _filter(
            {"term": {"collection": collection}},
            {"range": {"updated": {"gt": query.changed_after}}},
        )
        found[0] = Request(_any([found[0].query, changed]), found[0].exact)
    return found


def sort_of(order: SortOrder | ValueOrder) -> list[dict[str, Any]]:
    """Return a `sort` in which no two entries of a collection are equal."""
    if isinstance(order, ValueOrder):
        names = value_field(order.number), end_field(order.number, descending=order.descending)
        # Elasticsearch sorts a field of several numbers by the lowest, descending by the highest.
        how = {"order": "desc" if order.descending else "asc", "missing": "_last"}
        return [*({f"values.{name}": how} for name in names), {"id": "asc"}]
    direction = "desc" if order in DESCENDING_ORDERS else "asc"
    if order is SortOrder.ID:
        return [{"collection": "asc"}, {"id": "asc"}]  # the sort order of the index itself
    if order is SortOrder.ID_DESCENDING:
        return [{"id": "desc"}]
    return [{"updated": direction}, {"id": "asc"}]


def place_of(order: SortOrder | ValueOrder, collection: str, version: IndexedVersion) -> list[Any]:
    """Return the sort values of an entry, for `search_after`."""
    if isinstance(order, ValueOrder):
        return [*(version.value or [WITHOUT_VALUE[order.descending]] * 2), version.id]
    if order is SortOrder.ID:
        return [collection, version.id]
    return [version.id] if order in ID_ORDERS else [version.updated, version.id]


def _requests(live: Query, prefilter: Prefilter | None) -> list[Request]:
    if prefilter is None:
        return [Request(_filter(live), exact=True)]
    fits = _clauses(prefilter) <= MAX_CLAUSES
    pieces = _pieces(prefilter if fits else _weakened(prefilter))
    return [
        Request(_filter(live, _condition(piece)), exact=fits and _is_exact(piece))
        for piece in pieces
    ]


def _filter(*conditions: Query) -> Query:
    return {"bool": {"filter": list(conditions)}}


def _any(conditions: Iterable[Query]) -> Query:
    return {"bool": {"should": list(conditions), "minimum_should_match": 1}}


def _condition(prefilter: Prefilter) -> Query:
    """Return a condition that every entry fulfils that satisfies a prefilter."""
    match prefilter:
        case AnyTerm(terms):
            return {"terms": {"terms": list(terms)}}
        case AnyId(ids):
            return {"terms": {"id": list(ids)}}
        case UpdatedWithin():
            since, until = prefilter.bounds
            return {"range": {"updated": {"gte": since, "lte": until}}}
        case AllOf(parts):
            return _filter(*map(_condition, parts)) if parts else {"match_all": {}}
        case AnyOf(parts):
            return _any(map(_condition, parts)) if parts else _NOTHING
        case SpanWithin():
            return _filter(*_span_conditions(prefilter))


def _span_conditions(span: SpanWithin) -> list[Query]:
    """
    Return conditions that every resource with such a span fulfils.

    A single condition is exact. Several are not: different spans of a resource may fulfil them.
    """
    low_from, low_to, high_from, high_to = (address(span.group, bound) for bound in span.bounds)
    starts_within = span.low_from is not None and span.low_to is not None
    conditions = list[Query]()
    if starts_within:
        within = {"range": {"starts": {"gte": low_from, "lte": low_to}}}
        conditions.append(within if low_from <= low_to else _NOTHING)
    if span.high_from is not None or (span.low_to is not None and not starts_within):
        relation = "intersects" if high_from <= low_to else "contains"
        conditions.append(_spans(*sorted((high_from, low_to)), relation=relation))
    if span.high_to is not None or (span.low_from is not None and not starts_within):
        conditions.append(_spans(low_from, high_to, relation="within"))
    return conditions or [_spans(low_from, high_to, relation="within")]


def _spans(first: str, last: str, *, relation: str) -> Query:
    if first > last:
        return _NOTHING
    return {"range": {"spans": {"gte": first, "lte": last, "relation": relation}}}


def _is_exact(prefilter: Prefilter) -> bool:
    match prefilter:
        case SpanWithin():
            return len(_span_conditions(prefilter)) == 1
        case AllOf(parts) | AnyOf(parts):
            return all(map(_is_exact, parts))
    return True


def _clauses(prefilter: Prefilter) -> int:
    match prefilter:
        case SpanWithin():
            return len(_span_conditions(prefilter))
        case AllOf(parts) | AnyOf(parts):
            return sum(map(_clauses, parts))
    return 1


def _pieces(prefilter: Prefilter) -> list[Prefilter]:
    """Split a prefilter into alternatives with at most `MAX_VALUES` values per condition."""
    match prefilter:
        case AnyTerm(terms):
            return [AnyTerm(frozenset(chunk)) for chunk in _chunks(sorted(terms))]
        case AnyId(ids):
            return [AnyId(frozenset(chunk)) for chunk in _chunks(sorted(ids))]
        case AllOf(parts):
            return [AllOf(pieces) for pieces in product(*map(_pieces, parts))]
        case AnyOf(parts):
            pieces_by_part = [_pieces(part) for part in parts]
            if all(len(pieces) == 1 for pieces in pieces_by_part):
                return [prefilter]
            return [piece for pieces in pieces_by_part for piece in pieces]
    return [prefilter]


def _chunks(values: Sequence[Any]) -> list[Sequence[Any]]:
    starts = range(0, len(values), MAX_VALUES)
    return [values[start : start + MAX_VALUES] for start in starts] or [values]


def _weakened(prefilter: Prefilter) -> Prefilter:
    """Return a broader prefilter of fewer conditions; it may accept more resources."""
    match prefilter:
        case AllOf(parts):
            return min(map(_weakened, parts), key=_breadth, default=prefilter)
        case AnyOf(parts):
            return _union(map(_weakened, parts))
        case SpanWithin(group=group):
            return SpanWithin(group=group)
    return prefilter


def _breadth(weakened: Prefilter) -> int:
    """Return the rank of a weakened prefilter by how much it may find, from 0 upwards."""
    match weakened:
        case AllOf():
            return _EVERYTHING
        case AnyOf(parts):
            return max(map(lookup_cost, parts), default=0)
    return lookup_cost(weakened)


def _union(parts: Iterable[Prefilter]) -> Prefilter:
    """Return the union of weakened prefilters, with one condition each for terms and ids."""
    terms, ids, spans = set[int](), set[str](), set[SpanWithin]()
    for part in parts:
        for each in part.parts if isinstance(part, AnyOf) else (part,):
            match each:
                case AnyTerm(some):
                    terms |= some
                case AnyId(some):
                    ids |= some
                case SpanWithin():
                    spans.add(each)
                case _:
                    return AllOf(())
    united: list[Prefilter] = [*spans]
    if terms:
        united.append(AnyTerm(frozenset(terms)))
    if ids:
        united.append(AnyId(frozenset(ids)))
    return AnyOf(tuple(united))
