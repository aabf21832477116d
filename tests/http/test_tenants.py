"""Tenants named by the path, and everything that names a tenant wrongly."""

from datetime import UTC, datetime

import pytest
from litestar import Request

from helios_core.config.settings import Settings, TenantRouting
from helios_core.errors import Forbidden
from helios_core.http.tenants import Tenants
from helios_core.model.principals import Principal
from tests.http.conftest import ASYNC, BASE

PATIENT = {"resourceType": "Patient", "id": "p1"}
BOTH = [TenantRouting.URL, TenantRouting.BOTH]


@pytest.fixture(params=BOTH)
async def routed(request, open_site):
    site = await open_site(Settings(tenant_routing_mode=request.param))
    await site.put(PATIENT, tenant="acme")
    return site


@pytest.mark.parametrize(
    "path", ["/metadata", "/Patient/p1", "/Patient?_id=p1", "/Patient/p1/_history"]
)
async def test_every_route_has_its_tenant_in_front(routed, path):
    response = await routed.client.get(f"/acme{path}")

    assert response.status_code == 200
    assert f"{BASE}/Patient" not in response.text


async def test_urls_keep_the_form_that_the_caller_used(routed):
    location = await routed.kick_off("/acme/$export?_type=Patient")
    assert location.startswith(f"{BASE}/acme/export-status/")
    await routed.finish(location, tenant="acme")

    manifest = (await routed.client.get(location)).json()
    [output] = manifest["output"]
    lines = await routed.client.get(output["url"])

    assert manifest["request"] == f"{BASE}/acme/$export?_type=Patient"
    assert output["url"].startswith(f"{BASE}/acme/export-file/")
    assert '"p1"' in lines.text


async def test_the_tenant_of_a_path_sees_its_own_only(routed):
    location = await routed.kick_off("/acme/$export")
    job = location.rpartition("/")[2]

    assert (await routed.client.get("/other/Patient/p1")).status_code == 404
    assert (await routed.client.get(f"/other/export-status/{job}")).status_code == 404
    assert (await routed.client.delete(f"/other/export-status/{job}")).status_code == 404
    assert (await routed.client.get(f"/acme/export-status/{job}")).status_code == 202


async def test_writes_go_to_the_tenant_of_the_path(routed):
    created = await routed.client.post("/other/Patient", json={"resourceType": "Patient"})
    batch = {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [{"request": {"method": "GET", "url": "Patient/p1"}}],
    }

    assert created.headers["location"].startswith(f"{BASE}/other/Patient/")
    answers = [(await routed.client.post(f"/{t}", json=batch)).json() for t in ("acme", "other")]
    assert [a["entry"][0]["response"]["status"][:3] for a in answers] == ["200", "404"]


async def test_only_tenants_of_the_path_are_served_if_the_path_decides(open_site, outcome):
    site = await open_site(Settings(tenant_routing_mode=TenantRouting.URL))

    for path in ("/Patient/p1", "/metadata", "/$export", "/Patient?name=x"):
        response = await site.client.get(path, headers=ASYNC | {"X-Tenant-ID": "acme"})
        outcome(response, 400, "invalid")
        assert "/clinic/metadata" in response.text


async def test_the_header_still_works_if_both_may_decide(open_site):
    site = await open_site(Settings(tenant_routing_mode=TenantRouting.BOTH))
    await site.put(PATIENT, tenant="acme")

    response = await site.client.get("/Patient/p1", headers={"X-Tenant-ID": "acme"})

    assert response.status_code == 200


async def test_the_path_names_no_tenant_if_the_header_decides(site):
    await site.put(PATIENT, tenant="acme")

    assert (await site.client.get("/acme/Patient/p1")).status_code == 404


async def test_two_names_for_one_tenant_must_agree(routed, outcome):
    agree = await routed.client.get("/acme/Patient/p1", headers={"X-Tenant-ID": "acme"})
    differ = await routed.client.get("/acme/Patient/p1", headers={"X-Tenant-ID": "other"})

    assert agree.status_code == 200
    outcome(differ, 400, "invalid")


@pytest.mark.parametrize(
    "segment",
    [
        "a..b",
        "-x",
        ".hidden",
        "%2e%2e",
        "a%2fb",
        "a%00",
        "%ff",
        "a b",
        "%C3%A4",
        "x" * 65,
        "_x",
        "",
        "$x",
        "acme;x=1",
        "acme%20",
    ],
)
async def test_a_malformed_tenant_is_nobody(routed, segment):
    response = await routed.client.get(f"/{segment}/Patient/p1")

    assert response.status_code in {400, 404, 405}
    assert '"p1"' not in response.text


async def test_case_is_never_folded(routed):
    assert (await routed.client.get("/ACME/Patient/p1")).status_code == 404


async def test_an_encoded_tenant_is_the_tenant(routed):
    assert (await routed.client.get("/%61cme/Patient/p1")).status_code == 200


async def test_a_name_of_a_route_is_no_tenant(routed):
    """Patient/p1 must never be the root of tenant Patient."""
    await routed.put(PATIENT, tenant="Patient")

    for path in ("/Patient/Patient/p1", "/metadata/Patient/p1", "/export-status/Patient/p1"):
        assert (await routed.client.get(path)).status_code in {400, 404, 405}


@pytest.mark.parametrize("path", ["/health", "/_liveness", "/_readiness"])
async def test_health_has_no_tenant(routed, path):
    assert (await routed.client.get(path)).status_code == 200


def principal(tenant):
    return Principal(
        issuer="https://issuer.example",
        subject="c1",
        client_id="c1",
        scopes=("system/*.rs",),
        tenant=tenant,
        expires_at=datetime.max.replace(tzinfo=UTC),
    )


def tenant_of(claim, *, header=None, url=None, strict=False):
    tenants = Tenants(default="default", routing=TenantRouting.BOTH, strict=strict)
    scope = {
        "type": "http",
        "path": "/Patient",
        "headers": [(b"x-tenant-id", header.encode())] if header else [],
        "state": {"url_tenant": url} if url else {},
        "user": principal(claim),
    }
    return tenants.tenant(Request(scope))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("named", [{}, {"header": "acme"}, {"url": "acme"}])
def test_the_tenant_of_a_token_may_be_named_again(named, strict):
    assert tenant_of("acme", **named, strict=strict) == "acme"


@pytest.mark.parametrize("named", [{"header": "other"}, {"url": "other"}, {"header": "Acme"}])
def test_the_tenant_of_a_token_outranks_what_a_request_names(named):
    assert tenant_of("acme", **named) == "acme"


@pytest.mark.parametrize("named", [{"header": "other"}, {"url": "other"}, {"header": "Acme"}])
def test_strictly_a_request_may_not_name_another_tenant(named):
    with pytest.raises(Forbidden):
        tenant_of("acme", **named, strict=True)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("named", [{"header": "other"}, {"url": "other"}])
def test_a_token_without_a_tenant_opens_no_other_than_the_default(named, strict):
    assert tenant_of(None, strict=strict) == "default"
    with pytest.raises(Forbidden):
        tenant_of(None, **named, strict=strict)


@pytest.mark.parametrize("claim", ["", "a..b", "../x", " acme", "acme ", "a/b", "x" * 65, "ä"])
@pytest.mark.parametrize("strict", [False, True])
def test_a_malformed_tenant_of_a_token_opens_nothing(claim, strict):
    with pytest.raises(Forbidden):
        tenant_of(claim, strict=strict)
