"""The media types of FHIR resources."""

from typing import Final

FHIR_JSON: Final = "application/fhir+json"
NDJSON: Final = "application/fhir+ndjson"
