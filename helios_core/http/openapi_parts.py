"""What the operations of the OpenAPI document have in common: parameters, answers, schemas."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from helios_core.http.outcomes import FHIR_JSON, reason_of
from helios_core.manifests import Manifest
from helios_core.settings import TENANT_PATTERN

Schema: TypeAlias = dict[str, Any]

REFERENCE: Final = "#/components/schemas/{name}"
RETRIED: Final = (429, 503)
"""The statuses that come with a Retry-After."""


def referred(name: str) -> Schema:
    """Give a reference to a schema of the document."""
    return {"$ref": REFERENCE.format(name=name)}


def parameter(name: str, place: str, schema: Schema, *, required: bool = True) -> Schema:
    """Give a parameter of an operation."""
    return {"name": name, "in": place, "required": required, "schema": schema}


def header(name: str, description: str, schema: Schema) -> Schema:
    """Give the headers of an answer that has one."""
    return {name: {"description": description, "required": True, "schema": schema}}


def content(schema: Schema, *media_types: str) -> Schema:
    """Give a body in any of some media types."""
    return {"content": {media_type: {"schema": schema} for media_type in media_types}}


def answers(good: Mapping[int, Schema], *bad: int) -> Schema:
    """Give the answers of an operation; those that are bad are OperationOutcomes."""
    told = {
        str(status): {"description": reason_of(status), **answer}
        for status, answer in good.items()
    }
    return told | {str(status): _refusal(status) for status in bad}


def _refusal(status: int) -> Schema:
    again = header("Retry-After", "Seconds to wait", SECONDS) if status in RETRIED else {}
    answer = content(referred("OperationOutcome"), FHIR_JSON)
    return {"description": reason_of(status), **answer, **({"headers": again} if again else {})}


def _resource(name: str, **properties: Schema) -> Schema:
    known = {"resourceType": {"const": name}, **properties}
    return {"type": "object", "required": list(known), "properties": known}


SECONDS: Final[Schema] = {"type": "integer", "minimum": 1}
_ISSUE: Final[Schema] = {
    "type": "object",
    "required": ["severity", "code", "diagnostics"],
    "properties": {name: {"type": "string"} for name in ("severity", "code", "diagnostics")},
}
SCHEMAS: Final[Schema] = {
    **msgspec.json.schema_components([Manifest], ref_template=REFERENCE)[1],
    "OperationOutcome": _resource(
        "OperationOutcome", issue={"type": "array", "items": _ISSUE, "minItems": 1}
    ),
    "Parameters": _resource(
        "Parameters", parameter={"type": "array", "items": {"type": "object"}}
    ),
    "Bundle": _resource("Bundle", type={"type": "string"}),
}
"""The manifest's is made of the class that is sent."""

TENANT: Final = parameter(
    "X-Tenant-ID", "header", {"type": "string", "pattern": TENANT_PATTERN}, required=False
) | {"description": "Whose data; the server's default tenant where it is left out."}
JOB: Final = parameter("job_id", "path", {"type": "string"})
PROGRESS: Final = {
    **header("Retry-After", "Seconds to wait before the next poll", SECONDS),
    **header("X-Progress", "How far it is", {"type": "string"}),
}
ETAG: Final = header("ETag", "A strong validator", {"type": "string"})
NDJSON_FILE: Final = content({"type": "string"}, "application/fhir+ndjson")
