"""The search index: the terms stored with a version, and conditions on them."""

from typing import Any

from bson.int64 import Int64

from helios_core.fhir import (
    AllOf,
    AnyId,
    AnyOf,
    AnyTerm,
    IndexTerms,
    Prefilter,
    SpanWithin,
    UpdatedWithin,
)

UNREADABLE = 0
"""The term of versions whose content could not be read; every search must consider them."""

_UNREADABLE = {"t": Int64(UNREADABLE)}


def term_fields(terms: IndexTerms) -> dict[str, Any]:
    """Return the fields with the search terms of a version."""
    return {
        "t": [Int64(term) for term in terms.terms],
        "x": [
            {"k": Int64(kind), "l": Int64(low), "h": Int64(high)}
            for kind, low, high in terms.spans
        ],
    }


def condition_of(prefilter: Prefilter) -> dict[str, Any]:
    """Return a condition that every version fulfils that may satisfy a prefilter."""
    match prefilter:
        case AnyTerm(terms):
            return {"t": {"$in": [*map(Int64, terms), Int64(UNREADABLE)]}}
        case SpanWithin():
            low_from, low_to, high_from, high_to = map(Int64, prefilter.bounds)
            span = {
                "k": Int64(prefilter.group),
                "l": {"$gte": low_from, "$lte": low_to},
                "h": {"$gte": high_from, "$lte": high_to},
            }
            return {"$or": [{"x": {"$elemMatch": span}}, _UNREADABLE]}
        case AnyId(ids):
            return {"$or": [{"i": {"$in": list(ids)}}, _UNREADABLE]}
        case UpdatedWithin():
            since, until = map(Int64, prefilter.bounds)
            return {"s": {"$gte": since, "$lte": until}}
        case AllOf(parts):
            return {"$and": [condition_of(part) for part in parts]}
        case AnyOf(parts):
            return {"$or": [condition_of(part) for part in parts]}
