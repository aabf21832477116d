"""
The OpenAPI document of exports and searches (`GET /openapi.json`).

It is built from the tables that the routes themselves use, for one FHIR version and one version of
the guide. `http/access.py` has the table of who may call which route. Reading and changing single
resources is FHIR's REST API, which the CapabilityStatement describes. Decision record 24 explains
why Litestar does not generate the document.
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, Final, TypeAlias

import msgspec

from helios_core.config.settings import TENANT_PATTERN, TenantRouting
from helios_core.export.kickoff.parameters import (
    ParameterDefinition,
    ValueKind,
    kickoff_parameters,
)
from helios_core.fhir.bulk_data import Guide
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.media_types import FHIR_JSON, NDJSON
from helios_core.fhir.search import supported_parameters
from helios_core.http.access import ROUTES, Access
from helios_core.http.bulk.listing import MAX_COUNT, ExportList
from helios_core.http.bulk.manifest import Manifest
from helios_core.http.errors import reason_phrase
from helios_core.http.requests import FORM
from helios_core.http.smart_configuration import SCOPES
from helios_core.http.tenants import ORIGIN_PATHS
from helios_core.interactions.compartments import ALL_TYPES
from helios_core.interactions.everything import EVERYTHING
from helios_core.interactions.search_parameters import RESULT_PARAMETER_TEXTS
from helios_core.model.exports import Level
from helios_core.storage.data_provider import DataProvider, SupportsSearch, SupportsTypeHistory

JSONObject: TypeAlias = dict[str, Any]
"""An object of the document, by its names in the OpenAPI specification 3.1."""

DESCRIPTION: Final = (
    "FHIR Bulk Data Export, search and histories. Reading and changing single resources is FHIR's "
    "REST API, which the CapabilityStatement under /metadata describes, as it does the search "
    "parameters of every type. Every error is an OperationOutcome."
)
JSON: Final = "application/json"
RESOURCE_TYPE: Final = "ResourceType"
"""The schema of the names of the resource types."""
TEXT: Final[JSONObject] = {"type": "string"}
POSITIVE: Final[JSONObject] = {"type": "integer", "minimum": 1}
PREFER: Final = "^respond-async(, (handling=strict|handling=lenient|separate-export-status))*$"
EXPORTS: Final = {
    Level.SYSTEM: ("/$export", "Export all data"),
    Level.PATIENT: ("/Patient/$export", "Export the compartments of all patients"),
    Level.GROUP: ("/Group/{resource_id}/$export", "Export the compartments of a group's patients"),
}
"""The path and the summary of the kick-off at every level."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of a server that the document describes, besides its FHIR version."""

    base: str
    """The public base URL."""
    secured: bool = False
    """Whether requests need an access token."""
    token_url: str | None = None
    """The token endpoint; None if there is none or it is not known."""
    tenants: TenantRouting | None = TenantRouting.HEADER
    """How requests name their tenant; None if `base` includes it."""
    default_tenant: str = "default"


def openapi_document(
    provider: DataProvider, fhir_version: FHIRVersion, service: Service, *, guide: Guide | None
) -> bytes:
    """Return the document for one FHIR version as JSON; without a guide it has no exports."""
    paths = _discovery_paths()
    if guide is not None:
        paths |= _export_paths(guide)
    if isinstance(provider, SupportsTypeHistory):
        paths |= _history_paths()
    if isinstance(provider, SupportsSearch):
        paths |= _search_paths(fhir_version) | _compartment_paths(fhir_version)
    components: JSONObject = {"schemas": _schemas(fhir_version, guide)}
    if service.secured:
        components["securitySchemes"] = _security_schemes(service.token_url)
        paths = {path: _secured(path, item, service.token_url) for path, item in paths.items()}
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Helios",
                "version": version("helios-fhir"),
                "description": DESCRIPTION,
                "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
            },
            "servers": _servers(service),
            "paths": dict(
                _with_tenant(path, item, service.tenants) for path, item in paths.items()
            ),
            "components": components,
        }
    )


def _servers(service: Service) -> list[JSONObject]:
    servers: list[JSONObject] = [{"url": service.base}]
    if service.tenants is TenantRouting.BOTH:
        variable = {"default": service.default_tenant, "description": "The tenant."}
        servers.append({"url": f"{service.base}/{{tenant}}", "variables": {"tenant": variable}})
    return servers


def _with_tenant(
    path: str, item: JSONObject, tenants: TenantRouting | None
) -> tuple[str, JSONObject]:
    """Return a path and its operations, with the parameter that names the tenant."""
    if tenants is None or path in ORIGIN_PATHS:
        return path, item
    in_path = tenants is TenantRouting.URL
    own = TENANT_SEGMENT if in_path else TENANT
    return f"/{{tenant}}{path}" if in_path else path, {
        method: operation | {"parameters": [own, *operation.get("parameters", ())]}
        for method, operation in item.items()
    }


def _security_schemes(token_url: str | None) -> JSONObject:
    text = "An access token; .well-known/smart-configuration has the address of their issuer."
    schemes: JSONObject = {BEARER: {"type": "http", "scheme": "bearer", "description": text}}
    if token_url is not None:
        scopes = dict.fromkeys(
            SCOPES, "For all types; name a type instead of * for one. v2 scopes may have a search."
        )
        flows = {"clientCredentials": {"tokenUrl": token_url, "scopes": scopes}}
        text = "SMART Backend Services: the client authenticates by a signed assertion."
        schemes[CLIENT_CREDENTIALS] = {"type": "oauth2", "description": text, "flows": flows}
    return schemes


def _secured(path: str, item: JSONObject, token_url: str | None) -> JSONObject:
    """Return the operations of a path with the access that the table of routes requires."""
    if ROUTES[path] is Access.PUBLIC:
        return item
    security: list[JSONObject] = [{BEARER: []}]
    if token_url is not None:
        security.append({CLIENT_CREDENTIALS: []})
    refused = {status: {**_error(status), "headers": CHALLENGE} for status in (401, 403)}
    refusals = _responses(refused, 500, 503)
    return {
        method: operation | {"security": security, "responses": refusals | operation["responses"]}
        for method, operation in item.items()
    }


def _discovery_paths() -> JSONObject:
    known = {304: {"description": "If-None-Match names the document"}}
    statement = {200: _content({"type": "object"}, FHIR_JSON), **known}
    description = {200: _content({"type": "object"}, JSON), **known}
    status = {200: _content({"type": "object"}, JSON)}
    operations = {
        "/metadata": ("The CapabilityStatement", statement, (400, 406)),
        "/openapi.json": ("This document", description, (400, 406)),
        "/health": ("Whether every backend responds", status, (503,)),
        "/_readiness": ("Whether every backend responds", status, (503,)),
        "/_liveness": ("Whether the process responds", status, ()),
    }
    return {
        path: {"get": {"summary": summary, "responses": _responses(success, *errors)}}
        for path, (summary, success, errors) in operations.items()
    }


def _export_paths(guide: Guide) -> JSONObject:
    paths: JSONObject = {
        path: {
            method.lower(): {"summary": summary, **_kick_off(level, method, guide)}
            for method in guide.kick_off_methods
        }
        for level, (path, summary) in EXPORTS.items()
    }
    paths["/export-status"] = {"get": _list()}
    paths["/export-status/{job_id}"] = {"get": _poll(), "delete": _end()}
    paths["/export-file/{job_id}/{name}"] = {"get": _download()}
    return paths


def _kick_off(level: Level, method: str, guide: Guide) -> JSONObject:
    location = _header("Content-Location", "The URL of the export's status")
    prefer = _parameter("Prefer", "header", {"type": "string", "pattern": PREFER})
    operation: JSONObject = {
        "parameters": [prefer],
        "responses": _responses(
            {
                200: {"description": "A dry run", **_content(_ref("Parameters"), FHIR_JSON)},
                202: {"description": "The export is started", "headers": location},
            },
            *(400, 404, 406, 413, 415, 429, 500, 503),
        ),
    }
    if level is Level.GROUP:
        operation["parameters"].append(_parameter("resource_id", "path"))
    if method == "GET":
        operation["parameters"] += map(_query_parameter, _parameters_of(level, method, guide))
    else:
        body = _content(_ref(_body_name(level)), FHIR_JSON, JSON)
        operation["requestBody"] = {"required": True, **body}
    return operation


def _parameters_of(level: Level, method: str, guide: Guide) -> list[ParameterDefinition]:
    return [
        definition
        for definition in kickoff_parameters(guide)
        if method in definition.methods and (definition.system or level is not Level.SYSTEM)
    ]


def _query_parameter(definition: ParameterDefinition) -> JSONObject:
    schema, example = _text_schema(definition), definition.example
    if definition.repeats:
        schema = {"type": "array", "items": schema}
    return {
        **_parameter(definition.name, "query", schema, required=False),
        "description": definition.meaning,
        "example": [example] if definition.repeats else example,
    }


def _list() -> JSONObject:
    exports = {200: _content(_ref("ExportList"), JSON)}
    count = _parameter("_count", "query", {**POSITIVE, "maximum": MAX_COUNT}, required=False)
    after = _parameter("after", "query", required=False)
    return {
        "summary": "The caller's exports, the newest first, in pages",
        "parameters": [count, after],
        "responses": _responses(exports, 400, 406, 429, 500, 503),
    }


def _poll() -> JSONObject:
    manifest = _content(_ref("Manifest"), JSON)
    expires = _header("Expires", "When the files may be removed")
    progress = {
        **_header("Retry-After", "Seconds until the next poll", POSITIVE),
        **_header("X-Progress", "The progress of the export"),
    }
    running = "The export is running; if there is a body, it is a page of a partial manifest"
    return {
        "summary": "The progress of an export, then its manifest",
        "parameters": [JOB_ID, _parameter("page", "query", POSITIVE, required=False)],
        "responses": _responses(
            {
                200: {"description": "The export is complete", "headers": expires, **manifest},
                202: {"description": running, "headers": progress, **manifest},
            },
            *(400, 404, 406, 429, 500, 503),
        ),
    }


def _end() -> JSONObject:
    ended = {202: {"description": "The export is ended"}}
    return {
        "summary": "End an export and remove its files",
        "parameters": [JOB_ID],
        "responses": _responses(ended, 400, 404, 406, 500, 503),
    }


def _download() -> JSONObject:
    file = {"headers": _header("ETag", "A strong validator"), **_content(TEXT, NDJSON)}
    conditions = [
        _parameter(name, "header", required=False)
        for name in ("Range", "If-Range", "If-Match", "If-None-Match", "If-Unmodified-Since")
    ]
    return {
        "summary": "Download a file",
        "parameters": [JOB_ID, _parameter("name", "path"), *conditions],
        "responses": _responses(
            {
                200: {"description": "The file", **file},
                206: {"description": "A range of the file", **file},
                304: {"description": "If-None-Match names the file"},
            },
            *(400, 404, 412, 416, 500, 503),
        ),
    }


def _search_paths(fhir_version: FHIRVersion) -> JSONObject:
    resource_type = _parameter("resource_type", "path", _ref(RESOURCE_TYPE))
    parameters = _search_parameters(fhir_version)
    form = {
        "type": "object",
        "properties": dict.fromkeys(parameters, TEXT),
        "additionalProperties": TEXT,
    }
    query = _described(parameters)
    search: JSONObject = {
        "summary": "Search resources of a type, in pages",
        "responses": _responses(BUNDLE, 400, 404, 406, 413, 415, 500, 503),
    }
    by_query = search | {"parameters": [resource_type, *query]}
    by_form = search | {
        "parameters": [resource_type],
        "requestBody": {"required": True, **_content(form, FORM)},
    }
    return {
        "/{resource_type}": {"get": by_query},
        "/{resource_type}/_search": {"post": by_form},
    }


def _history_paths() -> JSONObject:
    parameters = _described(HISTORY_PARAMETER_TEXTS)
    history = {
        "summary": "Versions of all resources, newest first, in pages",
        "responses": _responses(BUNDLE, 400, 406, 500, 503),
    }
    of_type = {
        "summary": "Versions of the resources of a type, newest first, in pages",
        "responses": _responses(BUNDLE, 400, 404, 406, 500, 503),
    }
    resource_type = _parameter("resource_type", "path", _ref(RESOURCE_TYPE))
    return {
        "/_history": {"get": history | {"parameters": parameters}},
        "/{resource_type}/_history": {
            "get": of_type | {"parameters": [*parameters, resource_type]}
        },
    }


def _compartment_paths(fhir_version: FHIRVersion) -> JSONObject:
    definitions = load_definitions(fhir_version)
    compartments = {"type": "string", "enum": sorted(definitions.compartments)}
    searched = {"type": "string", "enum": [ALL_TYPES, *sorted(definitions.types)]}
    of_one = _parameter("resource_id", "path")
    search = {
        "summary": f"Search within a compartment, one type or all of them ({ALL_TYPES}), in pages",
        "parameters": [
            _parameter("resource_type", "path", compartments),
            of_one,
            _parameter("searched", "path", searched),
            *_described({name: RESULT_PARAMETER_TEXTS[name] for name in ("_count", "_after")}),
        ],
        "responses": _responses(BUNDLE, 400, 404, 406, 500, 503),
    }
    everything: JSONObject = {
        "summary": "The record of a patient and what it refers to, in pages",
        "responses": _responses(BUNDLE, 400, 404, 406, 410, 413, 415, 500, 503),
    }
    by_query = [of_one, *_described(EVERYTHING_PARAMETER_TEXTS)]
    body = _content(_ref("Parameters"), FHIR_JSON, JSON)
    return {
        "/{resource_type}/{resource_id}/{searched}": {"get": search},
        f"/Patient/{{resource_id}}/{EVERYTHING}": {
            "get": everything | {"parameters": by_query},
            "post": everything | {"parameters": [of_one], "requestBody": body},
        },
    }


def _described(texts: Mapping[str, str]) -> list[JSONObject]:
    """Return optional query parameters with these descriptions."""
    return [
        {**_parameter(name, "query", required=False), "description": text}
        for name, text in texts.items()
    ]


def _search_parameters(fhir_version: FHIRVersion) -> dict[str, str]:
    """Return by name the descriptions of the parameters of every type and of a search's result."""
    parameters = {
        parameter.code: f"A search parameter of every type ({parameter.type})."
        for parameter in supported_parameters(fhir_version, "Basic")
        if parameter.code.startswith("_")
    }
    return {**parameters, **RESULT_PARAMETER_TEXTS}


def _schemas(fhir_version: FHIRVersion, guide: Guide | None) -> JSONObject:
    types = sorted(load_definitions(fhir_version).types)
    schemas = {**SCHEMAS, RESOURCE_TYPE: {"type": "string", "enum": types}}
    if guide is not None and "POST" in guide.kick_off_methods:
        for level in Level:
            schemas[_body_name(level)] = _body_schema(_parameters_of(level, "POST", guide))
    return schemas


def _body_name(level: Level) -> str:
    return f"{level.capitalize()}Export"


def _body_schema(definitions: Iterable[ParameterDefinition]) -> JSONObject:
    """Return the schema of a Parameters resource that may have these parameters."""
    entries = [
        _body_entry(definition, kind)
        for definition in definitions
        for kind in definition.value.kinds
    ]
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


def _body_entry(definition: ParameterDefinition, kind: str) -> JSONObject:
    """Return the schema of a parameter with one kind of value, such as `valueString`."""
    return {
        "type": "object",
        "description": definition.meaning,
        "required": ["name", kind],
        "properties": {"name": {"const": definition.name}, kind: _value_schema(definition, kind)},
        "additionalProperties": False,
    }


def _value_schema(definition: ParameterDefinition, kind: str) -> JSONObject:
    text = _text_schema(definition)
    member = {"valueReference": "reference", "valueCoding": "code"}.get(kind)
    if member is not None:
        return {"type": "object", "required": [member], "properties": {member: text}}
    if kind == "valueBoolean":
        return {"type": "boolean"}
    if definition.value is ValueKind.NUMBER and kind != "valueString":
        return {"type": "integer", "minimum": 1, "maximum": 10**18 - 1}
    return text


def _text_schema(definition: ParameterDefinition) -> JSONObject:
    """Return the schema of a value that is sent as text."""
    if definition.name == "_type":
        return _ref(RESOURCE_TYPE)
    if definition.choices:
        return {"type": "string", "enum": definition.choices}
    if definition.value is ValueKind.INSTANT:
        return {"type": "string", "format": "date-time"}
    if definition.value is ValueKind.NUMBER:
        return {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"}
    return TEXT


def _resource_schema(resource_type: str, **properties: JSONObject) -> JSONObject:
    known = {"resourceType": {"const": resource_type}, **properties}
    return {"type": "object", "required": list(known), "properties": known}


# Objects of the OpenAPI specification, and constants made of them.


def _ref(name: str) -> JSONObject:
    return {"$ref": SCHEMA_REF.format(name=name)}


def _parameter(
    name: str, location: str, schema: JSONObject = TEXT, *, required: bool = True
) -> JSONObject:
    return {"name": name, "in": location, "required": required, "schema": schema}


def _header(name: str, description: str, schema: JSONObject = TEXT) -> JSONObject:
    return {name: {"description": description, "required": True, "schema": schema}}


def _content(schema: JSONObject, *media_types: str) -> JSONObject:
    return {"content": {media_type: {"schema": schema} for media_type in media_types}}


def _responses(success: Mapping[int, JSONObject], *errors: int) -> JSONObject:
    """Return the responses by status; those without a description get their reason phrase."""
    responses = {**success, **{status: _error(status) for status in (*errors, HEADERS_TOO_LARGE)}}
    return {
        str(status): {"description": reason_phrase(status), **response}
        for status, response in responses.items()
    }


def _error(status: int) -> JSONObject:
    outcome = _content(_ref("OperationOutcome"), FHIR_JSON)
    if status not in RETRIED:
        return outcome
    return {**outcome, "headers": _header("Retry-After", "Seconds to wait", POSITIVE)}


SCHEMA_REF: Final = "#/components/schemas/{name}"
HEADERS_TOO_LARGE: Final = 431
"""A status with which every operation may respond."""
RETRIED: Final = (429, 503)
"""The statuses of errors that have a Retry-After."""
BEARER: Final = "bearer"
CLIENT_CREDENTIALS: Final = "smartBackendServices"
CHALLENGE: Final = _header("WWW-Authenticate", "Bearer, and the reason of the refusal")
TENANT: Final = {
    **_parameter(
        "X-Tenant-ID", "header", {"type": "string", "pattern": TENANT_PATTERN}, required=False
    ),
    "description": "The tenant; without it, the server's default tenant.",
}
HISTORY_PARAMETER_TEXTS: Final = {
    "_count": "Versions on a page.",
    "_since": "An instant; only versions made at or after it.",
    "_at": "A date or dateTime; only versions that were current at some time within it.",
    "_after": "Where a page begins; follow the links of the previous page.",
}
EVERYTHING_PARAMETER_TEXTS: Final = {
    "_since": "An instant; only resources that changed after it.",
    "_type": "Resource types to return, joined by commas.",
    "start": "A date; only care that took place on it or later.",
    "end": "A date; only care that took place on it or earlier.",
    "_count": "Resources of the record on a page.",
    "_after": "Where a page begins; follow the links of the previous page.",
}
TENANT_SEGMENT: Final = _parameter("tenant", "path", {"type": "string", "pattern": TENANT_PATTERN})
JOB_ID: Final = _parameter("job_id", "path")
ISSUE: Final[JSONObject] = {
    "type": "object",
    "required": ["severity", "code", "diagnostics"],
    "properties": dict.fromkeys(("severity", "code", "diagnostics"), TEXT),
}
SCHEMAS: Final[JSONObject] = {
    **msgspec.json.schema_components([Manifest, ExportList], ref_template=SCHEMA_REF)[1],
    "OperationOutcome": _resource_schema(
        "OperationOutcome", issue={"type": "array", "items": ISSUE, "minItems": 1}
    ),
    "Parameters": _resource_schema(
        "Parameters", parameter={"type": "array", "items": {"type": "object"}}
    ),
    "Bundle": _resource_schema("Bundle", type=TEXT),
}
"""The schemas that do not depend on versions; those of classes that are sent are generated."""
BUNDLE: Final = {200: _content(_ref("Bundle"), FHIR_JSON)}
