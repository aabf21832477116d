"""
The doors of exports and searches as an OpenAPI document, from the tables that the doors use.

Reading and changing single resources is FHIR's own REST, which the CapabilityStatement describes.
"""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, Final, TypeAlias

import msgspec

from helios_core.config.settings import TENANT_PATTERN
from helios_core.export.kickoff.definitions import (
    ParameterDefinition,
    ValueKind,
    kickoff_parameters,
)
from helios_core.fhir.bulk_data import Guide
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.media_types import FHIR_JSON
from helios_core.fhir.search import supported_parameters
from helios_core.http.bulk.manifest import Manifest
from helios_core.http.errors import reason_phrase
from helios_core.interactions.search_parameters import RESULT_PARAMETER_TEXTS
from helios_core.model.exports import Level
from helios_core.storage.data_provider import DataProvider, SupportsSearch

Schema: TypeAlias = dict[str, Any]

REFERENCE: Final = "#/components/schemas/{name}"
RETRIED: Final = (429, 503)
"""The statuses that come with a Retry-After."""


def schema_ref(name: str) -> Schema:
    """Give a reference to a schema of the document."""
    return {"$ref": REFERENCE.format(name=name)}


def parameter_object(name: str, place: str, schema: Schema, *, required: bool = True) -> Schema:
    """Give a parameter of an operation."""
    return {"name": name, "in": place, "required": required, "schema": schema}


def header_object(name: str, description: str, schema: Schema) -> Schema:
    """Give the headers of an answer that has one."""
    return {name: {"description": description, "required": True, "schema": schema}}


def content_object(schema: Schema, *media_types: str) -> Schema:
    """Give a body in any of some media types."""
    return {"content": {media_type: {"schema": schema} for media_type in media_types}}


def response_objects(good: Mapping[int, Schema], *bad: int) -> Schema:
    """Give the answers of an operation; those that are bad are OperationOutcomes."""
    told = {
        str(status): {"description": reason_phrase(status), **answer}
        for status, answer in good.items()
    }
    return told | {str(status): _refusal(status) for status in bad}


def _refusal(status: int) -> Schema:
    again = header_object("Retry-After", "Seconds to wait", SECONDS) if status in RETRIED else {}
    answer = content_object(schema_ref("OperationOutcome"), FHIR_JSON)
    return {
        "description": reason_phrase(status),
        **answer,
        **({"headers": again} if again else {}),
    }


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

TENANT: Final = parameter_object(
    "X-Tenant-ID", "header", {"type": "string", "pattern": TENANT_PATTERN}, required=False
) | {"description": "Whose data; the server's default tenant where it is left out."}
JOB: Final = parameter_object("job_id", "path", {"type": "string"})
PROGRESS: Final = {
    **header_object("Retry-After", "Seconds to wait before the next poll", SECONDS),
    **header_object("X-Progress", "How far it is", {"type": "string"}),
}
ETAG: Final = header_object("ETag", "A strong validator", {"type": "string"})
NDJSON_FILE: Final = content_object({"type": "string"}, "application/fhir+ndjson")


DESCRIPTION: Final = (
    "FHIR Bulk Data Export and search. Reading and changing single resources is FHIR's REST API, "
    "which the CapabilityStatement under /metadata describes, as it does the search parameters of "
    "every type. Every error is an OperationOutcome."
)


TYPE: Final = "ResourceType"


PREFERENCES: Final = (
    "^respond-async(, (handling=strict|handling=lenient|separate-export-status))*$"
)


def openapi_document(
    provider: DataProvider, fhir_version: FHIRVersion, *, base: str, guide: Guide | None
) -> bytes:
    """Give the document for one FHIR version as JSON; no guide means no exports."""
    paths = dict(_discovery())
    if guide is not None:
        paths |= _exports(guide)
    if isinstance(provider, SupportsSearch):
        paths |= _searches(fhir_version)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Helios",
                "version": version("helios-fhir"),
                "description": DESCRIPTION,
                "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": base}],
            "paths": paths,
            "components": {"schemas": SCHEMAS | dict(_schemas(fhir_version, guide))},
        }
    )


def _schemas(fhir_version: FHIRVersion, guide: Guide | None) -> Iterator[tuple[str, Schema]]:
    """Give the schemas that depend on versions."""
    yield TYPE, {"type": "string", "enum": sorted(load_definitions(fhir_version).types)}
    if guide is not None and "POST" in guide.kick_off_methods:
        for level in Level:
            yield _body_name(level), _parameters(_asked_at(level, "POST", guide))


def _body_name(level: Level) -> str:
    return f"{level.capitalize()}Export"


def _discovery() -> Iterator[tuple[str, Schema]]:
    statement = content_object({"type": "object"}, FHIR_JSON)
    told = content_object({"type": "object"}, "application/json")
    doors = {
        "/metadata": ("The CapabilityStatement", {200: statement}, (400, 406)),
        "/openapi.json": ("This document", {200: told}, (400, 406)),
        "/health": ("Whether every backend answers", {200: told}, (503,)),
        "/_readiness": ("Whether every backend answers", {200: told}, (503,)),
        "/_liveness": ("Whether the process answers", {200: told}, ()),
    }
    for path, (summary, good, bad) in doors.items():
        yield path, {"get": {"summary": summary, "responses": response_objects(good, *bad)}}


def _exports(guide: Guide) -> dict[str, Schema]:
    doors = {
        "/$export": (Level.SYSTEM, "Export everything"),
        "/Patient/$export": (Level.PATIENT, "Export the compartments of all patients"),
        "/Group/{resource_id}/$export": (
            Level.GROUP,
            "Export the compartments of a group's patients",
        ),
    }
    paths: dict[str, Schema] = {
        path: {
            method.lower(): _kick_off(guide, level, method) | {"summary": summary}
            for method in guide.kick_off_methods
        }
        for path, (level, summary) in doors.items()
    }
    paths["/export-status/{job_id}"] = {"get": _poll(), "delete": _end()}
    paths["/export-file/{job_id}/{name}"] = {"get": _download()}
    return paths


def _asked_at(level: Level, method: str, guide: Guide) -> list[ParameterDefinition]:
    return [
        each
        for each in kickoff_parameters(guide)
        if method in each.methods and (each.system or level is not Level.SYSTEM)
    ]


def _kick_off(guide: Guide, level: Level, method: str) -> Schema:
    place = header_object("Content-Location", "Where to ask for the status", {"type": "string"})
    group = [parameter_object("resource_id", "path", {"type": "string"})]
    query = _asked_at(level, method, guide) if method == "GET" else []
    operation: Schema = {
        "parameters": [
            TENANT,
            parameter_object("Prefer", "header", {"type": "string", "pattern": PREFERENCES}),
            *(group if level is Level.GROUP else ()),
            *map(_in_query, query),
        ],
        "responses": response_objects(
            {
                200: content_object(schema_ref("Parameters"), FHIR_JSON)
                | {"description": "A dry run"},
                202: {"description": "The export has begun", "headers": place},
            },
            *(400, 404, 406, 413, 415, 429, 500, 503),
        ),
    }
    if method == "POST":
        body = content_object(schema_ref(_body_name(level)), FHIR_JSON, "application/json")
        operation["requestBody"] = {"required": True, **body}
    return operation


def _in_query(asked: ParameterDefinition) -> Schema:
    text = _text(asked)
    schema = {"type": "array", "items": text} if asked.repeats else text
    example = [asked.example] if asked.repeats else asked.example
    told = parameter_object(asked.name, "query", schema, required=False)
    return told | {"description": asked.meaning, "example": example}


def _text(asked: ParameterDefinition) -> Schema:
    """Give the schema of a value as a text."""
    if asked.name == "_type":
        return schema_ref(TYPE)
    if asked.choices:
        return {"type": "string", "enum": asked.choices}
    if asked.value is ValueKind.INSTANT:
        return {"type": "string", "format": "date-time"}
    if asked.value is ValueKind.NUMBER:
        return {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"}
    return {"type": "string"}


def _parameters(asked: list[ParameterDefinition]) -> Schema:
    """Give the schema of a Parameters resource with entries for what can be asked for."""
    entries = [_entry(each, kind) for each in asked for kind in each.value.kinds]
    example = [
        {"name": "_type", "valueString": "Patient"},
        {"name": "_since", "valueInstant": "2020-01-02T03:04:05Z"},
    ]
    return {
        "type": "object",
        "required": ["resourceType"],
        "properties": {
            "resourceType": {"const": "Parameters"},
            "parameter": {"type": "array", "items": {"anyOf": entries}},
        },
        "example": {"resourceType": "Parameters", "parameter": example},
    }


def _entry(asked: ParameterDefinition, kind: str) -> Schema:
    return {
        "type": "object",
        "description": asked.meaning,
        "required": ["name", kind],
        "properties": {"name": {"const": asked.name}, kind: _value(asked, kind)},
        "additionalProperties": False,
    }


def _value(asked: ParameterDefinition, kind: str) -> Schema:
    """Give the schema of a value in one of the kinds it may have."""
    text = _text(asked)
    within = {"valueReference": "reference", "valueCoding": "code"}.get(kind)
    if within is not None:
        return {"type": "object", "required": [within], "properties": {within: text}}
    if kind == "valueBoolean":
        return {"type": "boolean"}
    if asked.value is ValueKind.NUMBER and kind != "valueString":
        return {"type": "integer", "minimum": 1, "maximum": 10**18 - 1}
    return text


def _poll() -> Schema:
    manifest = content_object(schema_ref("Manifest"), "application/json")
    number = parameter_object("page", "query", {"type": "integer", "minimum": 1}, required=False)
    expires = header_object("Expires", "From when the files may be gone", {"type": "string"})
    return {
        "summary": "How far an export is, then its manifest",
        "parameters": [TENANT, JOB, number],
        "responses": response_objects(
            {
                200: manifest | {"description": "It is complete", "headers": expires},
                202: manifest
                | {"description": "It runs; a manifest only of parts", "headers": PROGRESS},
            },
            *(400, 404, 406, 429, 500, 503),
        ),
    }


def _end() -> Schema:
    return {
        "summary": "End an export and remove its files",
        "parameters": [TENANT, JOB],
        "responses": response_objects(
            {202: {"description": "It is ended"}}, 400, 404, 406, 500, 503
        ),
    }


def _download() -> Schema:
    conditions = ("Range", "If-Range", "If-None-Match")
    optional = [
        parameter_object(each, "header", {"type": "string"}, required=False) for each in conditions
    ]
    whole = NDJSON_FILE | {"headers": ETAG}
    return {
        "summary": "Download one file",
        "parameters": [
            TENANT,
            JOB,
            parameter_object("name", "path", {"type": "string"}),
            *optional,
        ],
        "responses": response_objects(
            {
                200: whole | {"description": "All of it"},
                206: whole | {"description": "A range of it"},
                304: {"description": "It is what If-None-Match names"},
            },
            *(400, 404, 416, 500, 503),
        ),
    }


def _searches(fhir_version: FHIRVersion) -> dict[str, Schema]:
    named = parameter_object("resource_type", "path", schema_ref(TYPE))
    asked = _asked(fhir_version)
    form = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in asked},
        "additionalProperties": {"type": "string"},
    }
    bundle = {200: content_object(schema_ref("Bundle"), FHIR_JSON)}
    responses = response_objects(bundle, 400, 404, 406, 413, 415, 500, 503)
    common = {"responses": responses, "summary": "Search resources of a type, in pages"}
    by_form = {"required": True, **content_object(form, "application/x-www-form-urlencoded")}
    in_query = [
        parameter_object(name, "query", {"type": "string"}, required=False)
        | {"description": meaning}
        for name, meaning in asked.items()
    ]
    return {
        "/{resource_type}": {"get": {"parameters": [TENANT, named, *in_query], **common}},
        "/{resource_type}/_search": {
            "post": {"parameters": [TENANT, named], "requestBody": by_form, **common}
        },
    }


def _asked(fhir_version: FHIRVersion) -> dict[str, str]:
    """Give what can be asked of every type: those of any type, and what shapes the answer."""
    everywhere = {
        each.code: f"A search parameter of every type ({each.type})."
        for each in supported_parameters(fhir_version, "Basic")
        if each.code.startswith("_")
    }
    return {**everywhere, **RESULT_PARAMETER_TEXTS}
