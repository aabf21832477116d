import asyncio

import pytest

from helios_core.config.settings import Settings
from helios_core.fhir.definitions import FHIRVersion

PATIENT = {"resourceType": "Patient", "id": "p1"}


@pytest.mark.parametrize(
    "accept",
    [
        "application/fhir+json",
        "application/json",
        "*/*",
        "application/*",
        "application/fhir+xml;q=0.9, application/fhir+json;q=0.1",
        "application/fhir+json; charset=utf-8",
        'application/fhir+json; fhirVersion="4.0"',
        "text/html, application/xhtml+xml, */*;q=0.8",
        "application/fhir+ndjson",
        "APPLICATION/FHIR+JSON",
        "application/json+fhir",
        "text/json; charset=utf-8",
        "application/json;q=inf",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/metadata", "/Patient/p1", "/$export"])
async def test_whoever_takes_json_in_any_form_gets_it(site, accept, path):
    """TR-04, RV-01, RV-09"""
    await site.put(PATIENT)

    response = await site.client.get(path, headers={"Accept": accept, "Prefer": "respond-async"})

    assert response.status_code in {200, 202}


@pytest.mark.parametrize(
    "accept",
    ["application/fhir+xml", "text/html", "application/json;q=0", "application/xml, text/xml"],
)
@pytest.mark.parametrize("path", ["/metadata", "/Patient/p1", "/$export", "/export-status/x"])
async def test_whoever_takes_no_json_gets_a_json_outcome(site, outcome, accept, path):
    """B2-KO-21, TR-04, RV-02"""
    await site.put(PATIENT)

    response = await site.client.get(path, headers={"Accept": accept, "Prefer": "respond-async"})

    outcome(response, 406, "not-supported")


@pytest.mark.parametrize(
    ("format_", "status"),
    [
        *(("json", 200), ("application/fhir+json", 200), ("application/json+fhir", 200)),
        *(("application/json; charset=utf-8", 200), ("text/json", 200)),
        *(("xml", 406), ("application/fhir+xml", 406), ("ttl", 406), ("", 406)),
    ],
)
@pytest.mark.parametrize("path", ["/Patient/p1", "/metadata"])
async def test_format_in_the_url_outranks_accept(site, format_, status, path):
    """RV-01, RV-02"""
    await site.put(PATIENT)
    headers = {"Accept": "application/fhir+xml"}

    response = await site.client.get(path, params={"_format": format_}, headers=headers)

    assert response.status_code == status


@pytest.mark.parametrize(
    "tenant", ["../etc", "a..b", "", ".hidden", "-x", "a/b", "a b", "ä", "x" * 65, "a\tb", "a%2fb"]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/Patient/p1"),
        ("PUT", "/Patient/p1"),
        ("GET", "/$export"),
        ("GET", "/export-status/x"),
        ("GET", "/export-file/x/y"),
        ("POST", "/"),
    ],
)
async def test_a_malformed_tenant_is_refused_everywhere(client, outcome, tenant, method, path):
    headers = {"X-Tenant-ID": tenant.encode(), "Prefer": "respond-async"}

    outcome(await client.request(method, path, headers=headers), 400, "invalid")


async def test_two_tenants_at_once_are_refused(client, outcome):
    headers = [("X-Tenant-ID", "a"), ("X-Tenant-ID", "b")]

    outcome(await client.get("/Patient", headers=headers), 400, "invalid")


@pytest.mark.parametrize("tenant", ["a", "clinic-1", "x" * 64, "a.b_c-d", "0"])
async def test_a_wellformed_tenant_is_let_in(client, tenant):
    response = await client.get("/Patient", headers={"X-Tenant-ID": tenant})

    assert response.status_code == 200


@pytest.mark.parametrize(
    ("headers", "label"),
    [
        ({}, "4.0.1"),
        ({"Accept": "application/fhir+json; fhirVersion=4.3"}, "4.3.0"),
        ({"Accept": "application/json;fhirversion=5.0.0"}, "5.0.0"),
        ({"Content-Type": "application/fhir+json; fhirVersion=4.3"}, "4.3.0"),
        (
            {
                "Accept": "application/fhir+json; fhirVersion=4.0; q=0.1, "
                "application/fhir+json; fhirVersion=5.0"
            },
            "5.0.0",
        ),
    ],
)
async def test_the_media_type_chooses_the_fhir_version(client, headers, label):
    metadata = await client.get("/metadata", headers=headers)

    assert metadata.json()["fhirVersion"] == label


async def test_the_default_version_is_a_setting(open_site):
    site = await open_site(Settings(default_fhir_version=FHIRVersion.R5))

    assert (await site.client.get("/metadata")).json()["fhirVersion"] == "5.0.0"


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": "application/fhir+json; fhirVersion=3.0"},
        {"Accept": "application/fhir+json; fhirVersion=banana"},
        {
            "Accept": "application/fhir+json; fhirVersion=4.0",
            "Content-Type": "application/fhir+json; fhirVersion=5.0",
        },
    ],
)
async def test_a_version_that_is_not_served_or_not_clear_is_refused(client, outcome, headers):
    outcome(await client.get("/metadata", headers=headers), 400)


@pytest.mark.parametrize("host", ["", "a b", "evil/path", "a@b", "x:y", "a\\b", "[::1"])
async def test_a_malformed_host_never_gets_into_an_address(client, outcome, host):
    headers = {"Host": host, "Prefer": "respond-async"}

    outcome(await client.get("/$export", headers=headers), 400)


@pytest.mark.parametrize(
    "host", ["fhir.example", "fhir.example:8443", "10.0.0.1:80", "[::1]:8080"]
)
async def test_the_host_header_is_the_base_of_addresses(client, host):
    response = await client.get("/$export", headers={"Host": host, "Prefer": "respond-async"})

    assert response.headers["content-location"].startswith(f"http://{host}/export-status/")


@pytest.mark.parametrize(
    "media_type",
    [
        "application/fhir+json",
        "application/json",
        "application/fhir+json; charset=UTF-8",
        'application/json; charset="utf8"',
        "application/fhir+json; fhirVersion=4.0",
    ],
)
async def test_json_bodies_are_read(client, media_type):
    body = b'{"resourceType":"Patient","id":"p1"}'

    response = await client.put("/Patient/p1", content=body, headers={"Content-Type": media_type})

    assert response.status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/fhir+xml"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/fhir+json; charset=iso-8859-1"},
        {"Content-Type": "nonsense"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
async def test_other_bodies_are_refused(client, outcome, headers):
    outcome(await client.put("/Patient/p1", content=b"{}", headers=headers), 415)


@pytest.mark.parametrize("query", ["%ff=1", "a=%ff", "_count=%c3%28"])
async def test_a_query_that_is_not_utf_8_is_refused(client, outcome, query):
    outcome(await client.get(f"/Patient?{query}"), 400, "invalid")


async def test_a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not(open_site, outcome):
    body = b'{"resourceType":"Patient","id":"p1"}'
    site = await open_site(Settings(max_body_bytes=len(body)))
    headers = {"Content-Type": "application/json"}

    async def chunks():
        for _ in range(1000):
            yield b" " * 1000

    fits = await site.client.put("/Patient/p1", content=body, headers=headers)
    announced = await site.client.put("/Patient/p1", content=body + b" ", headers=headers)
    streamed = await site.client.put("/Patient/p1", content=chunks(), headers=headers)

    assert fits.status_code == 201
    assert str(len(body)) in outcome(announced, 413, "too-long")["diagnostics"]
    outcome(streamed, 413, "too-long")


async def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(live):
    site = await live(Settings(max_body_bytes=1000))
    headers = {"Content-Type": "application/json", "Content-Length": str(10**9)}
    reader, writer = await asyncio.open_connection("127.0.0.1", site.client.base_url.port)
    lines = ["PUT /Patient/p1 HTTP/1.1", "Host: h", *(f"{k}: {v}" for k, v in headers.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()

    assert head.startswith(b"HTTP/1.1 413")


ROUTES = [
    *(("GET", path) for path in ("/metadata", "/openapi.json", "/_history", "/Patient")),
    *(("GET", path) for path in ("/Patient/p1", "/Patient/_history", "/Patient/p1/_history")),
    *(("GET", path) for path in ("/Patient/p1/_history/1", "/Patient/p1/Observation")),
    *(("GET", path) for path in ("/Patient/p1/*", "/Patient/p1/$everything", "/$export")),
    *(("GET", path) for path in ("/Patient/$export", "/Group/g/$export", "/export-status/x")),
    *(("DELETE", path) for path in ("/export-status/x", "/Patient/p1", "/Patient?name=x")),
]
WITH_BODY = [
    *(("POST", path) for path in ("/", "/Patient", "/$export", "/Patient/$export")),
    *(("POST", path) for path in ("/Group/g/$export", "/Patient/p1/$everything")),
    *(("POST", path) for path in ("/Patient/_search", "/Patient/p1/Observation/_search")),
    *((method, path) for method in ("PUT", "PATCH") for path in ("/Patient/p1", "/Patient?_id=x")),
]


@pytest.mark.parametrize(("method", "path"), [*ROUTES, *WITH_BODY])
@pytest.mark.parametrize("way", ["accept", "format", "mime"])
async def test_xml_is_refused_as_a_response_on_every_route(site, outcome, method, path, way):
    await site.put(PATIENT)
    headers = {"Prefer": "respond-async"}
    if way == "accept":
        headers["Accept"] = "application/fhir+xml"
    else:
        value = "xml" if way == "format" else "application/fhir%2Bxml"
        path = f"{path}{'&' if '?' in path else '?'}_format={value}"

    response = await site.client.request(method, path, headers=headers)

    outcome(response, 406, "not-supported")
    assert (await site.client.get("/Patient/p1")).headers["etag"] == 'W/"1"'


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
@pytest.mark.parametrize("media_type", ["application/fhir+xml", "application/xml", "text/xml"])
async def test_xml_is_refused_as_a_body_on_every_route(site, outcome, method, path, media_type):
    await site.put(PATIENT)
    headers = {"Prefer": "respond-async", "Content-Type": media_type}

    response = await site.client.request(method, path, headers=headers, content=b"<Patient/>")

    outcome(response, 415, "not-supported")
