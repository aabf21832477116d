"""The media types of FHIR resources."""

from typing import Final

FHIR_JSON: Final = "application/fhir+json"
"""A resource as JSON."""

NDJSON: Final = "application/fhir+ndjson"
"""Resources as JSON, one on each line."""
