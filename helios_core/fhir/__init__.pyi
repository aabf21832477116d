from .compartments import (
    patients_of,
)
from .dates import (
    date_bounds,
)
from .definitions import (
    Definitions,
    FHIRVersion,
    load_definitions,
)
from .instants import (
    FOREVER,
    format_instant,
    from_stamp,
    parse_instant,
    to_stamp,
)
from .media_types import (
    FHIR_JSON,
    NDJSON,
)
from .outcomes import (
    outcome_line,
)
from .references import (
    base_urls,
    split_reference,
)
from .resources import (
    Resource,
    parse_resource,
)
from .search import (
    MAX_VALUE_ORDERS,
    TERMS_VERSION,
    AllOf,
    AnyId,
    AnyOf,
    AnyTerm,
    Extremes,
    Filter,
    IndexTerms,
    Prefilter,
    SpanWithin,
    UpdatedWithin,
    ValueOrder,
    any_filter,
    compile_query,
    lookup_cost,
    satisfies,
    terms_and_values,
    terms_of,
)
from .subsetting import (
    keep_elements,
)

__all__ = [
    "FHIR_JSON",
    "FOREVER",
    "MAX_VALUE_ORDERS",
    "NDJSON",
    "TERMS_VERSION",
    "AllOf",
    "AnyId",
    "AnyOf",
    "AnyTerm",
    "Definitions",
    "Extremes",
    "FHIRVersion",
    "Filter",
    "IndexTerms",
    "Prefilter",
    "Resource",
    "SpanWithin",
    "UpdatedWithin",
    "ValueOrder",
    "any_filter",
    "base_urls",
    "compile_query",
    "date_bounds",
    "format_instant",
    "from_stamp",
    "keep_elements",
    "load_definitions",
    "lookup_cost",
    "outcome_line",
    "parse_instant",
    "parse_resource",
    "patients_of",
    "satisfies",
    "split_reference",
    "terms_and_values",
    "terms_of",
    "to_stamp",
]
