"""The OpenAPI document tells the truth, and whatever is made of it is answered in FHIR."""

import re
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from helios_core.config.settings import Settings, TenantRouting
from helios_core.errors import BackendUnavailable
from helios_core.export.kickoff.parameters import kickoff_parameters
from helios_core.fhir.bulk_data import CURRENT, GUIDES, GuideVersion
from helios_core.fhir.definitions import FHIRVersion
from helios_core.http.access import ROUTES, Access
from helios_core.http.app import create_app
from helios_core.http.openapi import Service, openapi_document
from helios_core.memory import MemoryDataProvider
from tests.http.conftest import BASE, litestar_of
from tests.http.fuzzing import UNLIMITED, ask, end
from tests.tokens import StaticVerifier, bearer, principal

ASYNC = {"Prefer": "respond-async"}
PROMISES = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
OF_HEADERS = PROMISES[:2] + PROMISES[3:4]
"""What holds for a 202 without a body: OpenAPI has no way to say that a body may be missing."""
ELSEWHERE = re.compile(
    r"^/(\{resource_type\}(/\{resource_id\}.*)?|(Patient|Group).*|\.well-known/smart-configuration)?$"
)
"""What others describe: FHIR's own REST the CapabilityStatement, and discovery SMART."""
BOUNDED = settings(
    deadline=None,
    max_examples=20,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def described(version=FHIRVersion.R4, guide=CURRENT, **service):
    about = Service(base=BASE, **service)
    return msgspec.json.decode(openapi_document(MemoryDataProvider(), version, about, guide=guide))


def operations_of(document):
    """Yield path, method and operation of a document."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


OPERATIONS = {
    f"{operation.method.upper()} {operation.path}": operation
    for operation in (
        result.ok() for result in schemathesis.openapi.from_dict(described()).get_all_operations()
    )
}
VARYING = [label for label, each in OPERATIONS.items() if each.definition.raw.get("parameters")]


async def send(fuzzed, case):
    """Send a case, and hold the response to what is promised of every response."""
    sent = requests.Request(**case.as_transport_kwargs(base_url=BASE)).prepare()
    headers = [
        (
            name.lower().encode("latin-1"),
            value.encode("latin-1") if isinstance(value, str) else value,
        )
        for name, value in sent.headers.items()
    ]
    response = await ask(fuzzed, sent.method, sent.url, content=sent.body, headers=headers)
    return response, headers


async def exported(fuzzed):
    """Return the paths of a finished export's status and of one of its files."""
    site = fuzzed._site
    if fuzzed.exported is not None:
        polled = await site.client.get(fuzzed.exported[0])
        if polled.status_code == 200:
            return fuzzed.exported
    location = await site.kick_off("/$export?_type=Patient&allowPartialManifests=true")
    await site.finish(location)
    manifest = (await site.client.get(location)).json()
    fuzzed.exported = urlsplit(location).path, urlsplit(manifest["output"][0]["url"]).path
    return fuzzed.exported


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("label", VARYING)
@BOUNDED
@given(data=st.data())
async def test_whatever_is_made_of_the_document_is_answered_as_it_promises(
    fuzzed, label, mode, data
):
    """B2-KO-20, B2-KO-21, B2-ST-08"""
    operation = OPERATIONS[label]
    case = data.draw(operation.as_strategy(generation_mode=mode))
    if "{job_id}" in operation.path and data.draw(st.booleans()):
        _, _, job_id, name = (await exported(fuzzed))[1].split("/")
        case.path_parameters = {"job_id": job_id, "name": name}
        case.headers.pop("X-Tenant-ID", None)
    before = fuzzed.jobs()

    response, headers = await send(fuzzed, case)

    if response.status_code == 202 and "content-location" in response.headers:
        await end(fuzzed, response, headers)
    assert fuzzed.jobs() == before or case.method == "DELETE"
    if mode is GenerationMode.POSITIVE:
        case.validate_response(response, checks=PROMISES)


@pytest.mark.parametrize("label", [each for each in OPERATIONS if each not in VARYING])
async def test_what_takes_no_parameters_is_answered_as_promised(fuzzed, label):
    case = OPERATIONS[label].Case()

    response, _ = await send(fuzzed, case)

    assert response.status_code == 200
    case.validate_response(response, checks=PROMISES)


async def test_the_life_of_an_export_is_as_promised(fuzzed):
    """B2-ROLE-01"""
    kick_off = OPERATIONS["GET /$export"].Case(
        headers=dict(ASYNC), query={"_type": ["Patient"], "allowPartialManifests": "true"}
    )
    kicked, _ = await send(fuzzed, kick_off)
    kick_off.validate_response(kicked, checks=PROMISES)
    location = kicked.headers["content-location"]
    job_id = location.rsplit("/", 1)[1]
    poll = OPERATIONS["GET /export-status/{job_id}"].Case(path_parameters={"job_id": job_id})
    running, _ = await send(fuzzed, poll)
    await fuzzed._site.finish(location)
    complete, _ = await send(fuzzed, poll)
    name = complete.json()["output"][0]["url"].rsplit("/", 1)[1]
    download = OPERATIONS["GET /export-file/{job_id}/{name}"].Case(
        path_parameters={"job_id": job_id, "name": name}, headers={"Range": "bytes=0-9"}
    )
    ranged, _ = await send(fuzzed, download)
    cancel = OPERATIONS["DELETE /export-status/{job_id}"].Case(path_parameters={"job_id": job_id})
    ended, _ = await send(fuzzed, cancel)

    responses = (running, complete, ranged, ended)
    assert [each.status_code for each in responses] == [202, 200, 206, 202]
    for case, response in zip((poll, poll, download, cancel), responses, strict=True):
        case.validate_response(response, checks=PROMISES if response.content else OF_HEADERS)


async def test_the_document_is_served_and_names_the_address_it_was_requested_at(site):
    response = await site.client.get("/openapi.json")

    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert document["openapi"] == "3.1.0"
    assert document["servers"] == [{"url": BASE}]
    schemathesis.openapi.from_dict(document).validate()


async def test_what_makes_clients_of_the_document_may_ask_for_anything(site):
    accept = {"Accept": "application/vnd.oai.openapi+json, application/json;q=0.5, */*;q=0.1"}

    assert (await site.client.get("/openapi.json", headers=accept)).status_code == 200


@pytest.mark.parametrize("path", ["/schema", "/schema/openapi.json", "/docs"])
async def test_there_is_no_other_document(client, path):
    assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize("version", FHIRVersion)
@pytest.mark.parametrize("guide", GUIDES)
def test_the_document_is_valid_for_every_version(version, guide):
    document = described(version, GUIDES[guide])

    schemathesis.openapi.from_dict(document).validate()
    methods = document["paths"]["/$export"].keys()
    assert methods == {each.lower() for each in GUIDES[guide].kick_off_methods}


@pytest.mark.parametrize("guide", GuideVersion)
async def test_the_document_has_every_route_of_exports_and_searches(backends, guide):
    app = litestar_of(create_app(Settings(bulk_data_ig=guide), backends))
    routes = {
        (re.sub(r":\w+\}", "}", route.path), method)
        for route in app.routes
        for method in route.methods
        if method not in ("HEAD", "OPTIONS")
    }

    documented = {
        (path, method.upper())
        for path, operations in described(guide=GUIDES[guide])["paths"].items()
        for method in operations
    }

    assert documented <= routes
    assert all(ELSEWHERE.match(path) for path, _ in routes - documented), routes - documented


def test_without_exports_the_document_has_none():
    paths = described(guide=None)["paths"]

    assert not [path for path in paths if "export" in path]


@pytest.mark.parametrize("guide", GUIDES.values())
def test_every_parameter_that_is_served_is_in_the_document(guide):
    document = described(guide=guide)

    entries = document["components"]["schemas"]["GroupExport"]["properties"]["parameter"]
    named = {each["properties"]["name"]["const"] for each in entries["items"]["anyOf"]}
    assert named == {each.name for each in kickoff_parameters(guide)}


async def test_the_examples_of_the_document_are_accepted(site):
    await site.put({"resourceType": "Patient", "id": "p1"})
    for parameter in described()["paths"]["/Patient/$export"]["get"]["parameters"]:
        if parameter["in"] != "query":
            continue
        query = {parameter["name"]: parameter["example"]}
        response = await site.client.get("/Patient/$export", params=query, headers=ASYNC)
        assert response.status_code in (200, 202), (query, response.text)
        if response.status_code == 202:
            await site.client.delete(response.headers["content-location"])


async def test_a_refusal_of_the_framework_is_an_outcome_too(client, outcome):
    outcome(await client.post("/openapi.json"), 405, "not-supported")
    assert isinstance(await client.head("/openapi.json"), httpx.Response)


PUBLIC = {path for path, access in ROUTES.items() if access is Access.PUBLIC}
SECURED = {"secured": True, "token_url": f"{BASE}/token"}


def test_without_authentication_the_document_has_no_security():
    document = described()

    assert "securitySchemes" not in document["components"]
    for path, method, operation in operations_of(document):
        assert "security" not in operation, (path, method)
        assert not {"401", "403"} & set(operation["responses"]), (path, method)


@pytest.mark.parametrize("token_url", [None, f"{BASE}/token"])
@pytest.mark.parametrize("tenants", [*TenantRouting, None])
def test_with_authentication_every_route_says_what_it_needs(token_url, tenants):
    document = described(secured=True, token_url=token_url, tenants=tenants)

    schemathesis.openapi.from_dict(document).validate()
    schemes = document["components"]["securitySchemes"]
    assert (schemes["bearer"]["type"], schemes["bearer"]["scheme"]) == ("http", "bearer")
    flows = [each["flows"] for each in schemes.values() if each["type"] == "oauth2"]
    assert [each["clientCredentials"]["tokenUrl"] for each in flows] == [token_url] * len(flows)
    assert len(flows) == (token_url is not None)
    public = set()
    for path, method, operation in operations_of(document):
        responses = operation["responses"]
        if path.removeprefix("/{tenant}") in PUBLIC:
            public.add(path)
            assert "security" not in operation, (path, method)
            assert not {"401", "403"} & set(responses), (path, method)
            continue
        assert operation["security"] == [{name: []} for name in schemes], (path, method)
        for status in ("401", "403"):
            [content] = responses[status]["content"].values()
            assert content["schema"]["$ref"].endswith("/OperationOutcome")
            assert "WWW-Authenticate" in responses[status]["headers"]
        assert {"500", "503"} <= set(responses)
    assert len(public) == len(PUBLIC - {"/.well-known/smart-configuration"})


@pytest.fixture
async def secured(open_site):
    """A site, and the issuer of its clients: one may do nothing, one is of a malformed tenant."""
    known = {
        "idle": principal("idle"),
        "lost": principal("lost", "system/*.cruds", tenant="not a tenant"),
    }
    verifier = StaticVerifier(known)
    site = await open_site(UNLIMITED, token_verifier=verifier)
    return site, verifier


@pytest.mark.parametrize("token", [None, "unknown", "idle", "lost"])
@pytest.mark.parametrize("label", OPERATIONS)
async def test_refusals_are_as_promised(secured, label, token):
    site, _ = secured
    document = described(**SECURED)
    path, method = OPERATIONS[label].path, OPERATIONS[label].method
    case = schemathesis.openapi.from_dict(document)[path][method].Case(
        path_parameters={
            name: {"resource_type": "Patient", "searched": "Observation"}.get(name, "x")
            for name in re.findall(r"{(\w+)}", path)
        },
    )
    body = {}
    if method.lower() == "post":
        form = path.endswith("_search")
        body = {"data": {"_id": "x"}} if form else {"json": {"resourceType": "Parameters"}}
    headers = ASYNC | (bearer(token) if token else {})

    response = await site.client.request(method, case.formatted_path, headers=headers, **body)

    case.validate_response(response, checks=PROMISES)
    if path in PUBLIC:
        assert response.status_code == 200
    elif token != "idle":
        assert response.status_code == (403 if token == "lost" else 401)
    elif "$" in path or path == "/{resource_type}":
        assert response.status_code == 403


async def test_the_document_names_the_token_endpoint_while_the_issuer_says(secured):
    site, verifier = secured

    async def schemes():
        response = await site.client.get("/openapi.json", headers=bearer("idle"))
        return response.json()["components"]["securitySchemes"].values()

    async def silent(_base):
        raise BackendUnavailable("the issuer is down")

    known = [each for each in await schemes() if each["type"] == "oauth2"]
    verifier.smart_configuration = silent
    unknown = [each for each in await schemes() if each["type"] == "oauth2"]

    assert known[0]["flows"]["clientCredentials"]["tokenUrl"] == f"{BASE}/token"
    assert unknown == []


@pytest.mark.parametrize(
    ("routing", "front"),
    [
        *((routing, "") for routing in TenantRouting),
        *((routing, "/clinic") for routing in TenantRouting if routing != "header"),
    ],
)
async def test_every_path_of_the_document_is_served_with_the_tenant_where_it_says(
    open_site, routing, front
):
    site = await open_site(Settings(tenant_routing_mode=routing))
    patient = {"resourceType": "Patient", "id": "p1"}
    await site.put(patient, tenant="clinic")

    document = (await site.client.get(f"{front}/openapi.json")).json()

    schemathesis.openapi.from_dict(document).validate()
    assert document["servers"][0]["url"] == BASE + front
    of_server = {"/health", "/_liveness", "/_readiness", "/openapi.json"}
    in_path = routing is TenantRouting.URL and not front
    for path, _, operation in operations_of(document):
        named = [
            (each["in"], each["name"])
            for each in operation.get("parameters", ())
            if each["name"] in ("tenant", "X-Tenant-ID")
        ]
        if path in of_server or front:
            assert not named, path
        else:
            assert named == [("path", "tenant") if in_path else ("header", "X-Tenant-ID")], path
            assert path.startswith("/{tenant}/") == in_path
    search = "/{tenant}/{resource_type}" if in_path else "/{resource_type}"
    assert search in document["paths"]
    names = {"tenant": "clinic", "resource_type": "Patient"}
    headers = {} if in_path or front else {"X-Tenant-ID": "clinic"}
    for server in document["servers"]:
        url = server["url"].format(**names) + search.format(**names)
        sent = {} if "{tenant}" in server["url"] else headers
        response = await site.client.get(url, headers=sent)
        assert [each["resource"]["id"] for each in response.json()["entry"]] == ["p1"], url
    assert len(document["servers"]) == (2 if routing is TenantRouting.BOTH and not front else 1)
