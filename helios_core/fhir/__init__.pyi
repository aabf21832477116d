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
    TERMS_VERSION,
    AllOf,
    AnyId,
    AnyOf,
    AnyTerm,
    Filter,
    IndexTerms,
    Prefilter,
    SpanWithin,
    UpdatedWithin,
    any_filter,
    compile_query,
    lookup_cost,
    satisfies,
    terms_of,
)
from .subsetting import (
    keep_elements,
)

__all__ = [
    "FHIR_JSON",
    "FOREVER",
    "NDJSON",
    "TERMS_VERSION",
    "AllOf",
    "AnyId",
    "AnyOf",
    "AnyTerm",
    "Definitions",
    "FHIRVersion",
    "Filter",
    "IndexTerms",
    "Prefilter",
    "Resource",
    "SpanWithin",
    "UpdatedWithin",
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
    "terms_of",
    "to_stamp",
]
