"""Search as FHIR means it: compiled once, asked of many resources."""

from helios_core.fhir.search.filters import Filter, Lookup, any_of
from helios_core.fhir.search.index_terms import terms_of
from helios_core.fhir.search.prefilters import (
    TERMS_VERSION,
    AllOf,
    AnyId,
    AnyOf,
    AnyTerm,
    Prefilter,
    Span,
    Terms,
    Updated,
    cost,
    satisfied,
)
from helios_core.fhir.search.queries import RESULT_PARAMETERS, compile_query
from helios_core.fhir.search.support import Supported, supported
from helios_core.fhir.search.type_filters import parse_type_filter, split_type_filter

__all__ = [
    "RESULT_PARAMETERS",
    "TERMS_VERSION",
    "AllOf",
    "AnyId",
    "AnyOf",
    "AnyTerm",
    "Filter",
    "Lookup",
    "Prefilter",
    "Span",
    "Supported",
    "Terms",
    "Updated",
    "any_of",
    "compile_query",
    "cost",
    "parse_type_filter",
    "satisfied",
    "split_type_filter",
    "supported",
    "terms_of",
]
