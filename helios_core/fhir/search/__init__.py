"""
FHIR search, compiled to filters.

`compile_query` turns the parameters of a search into a `Filter` that tests resources. The filter's
prefilter is for stores with an index: it finds candidates by what `terms_of` extracted from each
resource.
"""

from helios_core.fhir.search.filters import Filter, Lookup, any_filter
from helios_core.fhir.search.index_terms import terms_and_values, terms_of
from helios_core.fhir.search.prefilters import (
    TERMS_VERSION,
    AllOf,
    AnyId,
    AnyOf,
    AnyTerm,
    IndexTerms,
    Prefilter,
    SpanWithin,
    UpdatedWithin,
    id_term,
    lookup_cost,
    necessary_terms,
    satisfies,
)
from helios_core.fhir.search.queries import RESULT_PARAMETERS, compile_query
from helios_core.fhir.search.supported_parameters import SupportedParameter, supported_parameters
from helios_core.fhir.search.type_filters import parse_type_filter, split_type_filter
from helios_core.fhir.search.value_orders import (
    MAX_VALUE_ORDERS,
    VALUES_VERSION,
    Extremes,
    ValueOrder,
)

__all__ = [
    "MAX_VALUE_ORDERS",
    "RESULT_PARAMETERS",
    "TERMS_VERSION",
    "VALUES_VERSION",
    "AllOf",
    "AnyId",
    "AnyOf",
    "AnyTerm",
    "Extremes",
    "Filter",
    "IndexTerms",
    "Lookup",
    "Prefilter",
    "SpanWithin",
    "SupportedParameter",
    "UpdatedWithin",
    "ValueOrder",
    "any_filter",
    "compile_query",
    "id_term",
    "lookup_cost",
    "necessary_terms",
    "parse_type_filter",
    "satisfies",
    "split_type_filter",
    "supported_parameters",
    "terms_and_values",
    "terms_of",
]
