"""Clients, tenants, routes and methods: every combination that must not succeed."""

from datetime import timedelta
from itertools import product

import pytest
from msgspec.structs import replace

from helios_core.config.settings import Settings, TenantRouting
from tests.http.bulk.test_permissions import LAB, observation
from tests.http.conftest import ASYNC
from tests.http.test_access import routes_of
from tests.tokens import StaticVerifier, bearer, principal

MARK = "only-for-the-owner"
OWNER = "owner"
WITHOUT_RIGHTS = {
    "nobody": principal("nobody"),
    "somebody-present": principal("present", "user/*.cruds", "patient/*.*", "openid"),
    "unusable": principal("unusable", "system/*.cruds?nothing=x"),
    "misspelt": principal("misspelt", "system/*.sdurc", "system.*.read", "system/patient.rs"),
    "limited-to-a-group": replace(principal("g", "system/*.cruds"), groups=frozenset({"a"})),
}
"""Clients whose token grants nothing of what there is: no request of theirs succeeds."""
ELSEWHERE = {
    "of-another-tenant": principal("a", "system/*.cruds", tenant="t2"),
    "the-owner-elsewhere": principal(OWNER, "system/*.cruds", tenant="t2"),
    "of-another-type": principal("b", "system/Practitioner.cruds"),
    "of-other-resources": principal("c", "system/Patient.cruds?_id=another"),
}
"""Clients that may do something, but see nothing of the owner's."""
INVALID = {"expired": principal("x", "system/*.*", valid_for=timedelta(seconds=-1))}
TENANTS = (
    ("", {}),
    ("", {"X-Tenant-ID": "t2"}),
    ("", {"X-Tenant-ID": ".."}),
    ("/default", {}),
    ("/t2", {}),
)
"""What names a tenant: what is in front of a path, and headers."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
LISTS = {"/export-status", "/_history"}
"""What lists of all that a client may see; it has nothing in it for one without rights."""
DESCRIPTIONS = {
    *("/openapi.json", "/metadata", "/.well-known/smart-configuration", "/health"),
    *("/_liveness", "/_readiness", "/_plugins/open/x"),
}


@pytest.fixture
async def site(open_site):
    known = {OWNER: principal(OWNER, "system/*.cruds")}
    verifier = StaticVerifier(known | WITHOUT_RIGHTS | ELSEWHERE | INVALID)
    routed = Settings(tenant_routing_mode=TenantRouting.BOTH)
    site = await open_site(routed, token_verifier=verifier)
    patient = {"resourceType": "Patient", "id": MARK, "name": [{"family": MARK}]}
    member = {"entity": {"reference": f"Patient/{MARK}"}}
    await site.put(
        patient,
        {**patient, "active": True},
        {**observation(MARK, LAB), "subject": {"reference": f"Patient/{MARK}"}},
        {
            "resourceType": "Group",
            "id": MARK,
            "type": "person",
            "actual": True,
            "member": [member],
        },
    )
    return site


@pytest.fixture
async def values(site):
    """Return the values of path parameters that lead to what the owner has."""
    response = await site.client.get("/$export", headers=ASYNC | bearer(OWNER))
    location = response.headers["content-location"]
    await site.finish(location)
    manifest = (await site.client.get(location, headers=bearer(OWNER))).json()
    job_id, name = manifest["output"][0]["url"].split("/")[-2:]
    return {
        "resource_type": "Patient",
        "resource_id": MARK,
        "version_id": "1",
        "searched": "Observation",
        "job_id": job_id,
        "name": name,
    }


def paths(site, values):
    """Yield every path that leads to something of the owner; a new route has to have values."""
    found = (route.path_format.format(**values) for route in routes_of(site))
    return [path for path in found if path not in DESCRIPTIONS]


def requests(site, values):
    """Yield every path with every method, and everything that names a tenant."""
    return product(paths(site, values), METHODS, TENANTS)


def body_of(method, path):
    patient = {"resourceType": "Patient", "id": MARK}
    if method not in ("POST", "PUT", "PATCH"):
        return {}
    if method == "PATCH":
        patch = [{"op": "test", "path": "/id", "value": MARK}]
        return {"json": patch, "headers": {"Content-Type": "application/json-patch+json"}}
    if path.endswith("_search"):
        return {"data": {"_id": MARK}}
    if path == "/":
        entries = [
            {"request": {"method": "GET", "url": f"Patient/{MARK}"}},
            {"request": {"method": "GET", "url": f"Patient?_id={MARK}"}},
            {"request": {"method": "DELETE", "url": f"Patient/{MARK}"}},
        ]
        return {"json": {"resourceType": "Bundle", "type": "batch", "entry": entries}}
    return {"json": patient}


def sent(method, path, headers):
    options = body_of(method, path)
    return options | {"headers": ASYNC | headers | options.get("headers", {})}


def shows(response):
    """Return whether a response has more of the owner's than what its request had."""
    return any(
        word in response.text
        for word in ("family", '"total":1', "output", "transactionTime", "fullUrl")
    )


async def test_the_owner_gets_something_at_every_path(site, values):
    """Or the refusals of the others would prove nothing; a Group has no compartment."""
    refused = set()
    for path in paths(site, values):
        for method in ("GET", "POST"):
            response = await site.client.request(method, path, **sent(method, path, bearer(OWNER)))
            if response.is_success:
                break
        else:
            refused.add(path)

    assert refused == {f"/Group/{MARK}/Observation", f"/Group/{MARK}/Observation/_search"}


@pytest.mark.parametrize("client", [None, "unknown", *INVALID, *WITHOUT_RIGHTS])
async def test_clients_without_rights_are_refused_everywhere(site, values, client):
    """B2-SEC-04, SM-21, RV-05, RV-33, RV-40"""
    headers = {} if client is None else bearer(client)
    status = {401} if client not in WITHOUT_RIGHTS else {400, 403, 404, 405}
    for path, method, (prefix, tenant) in requests(site, values):
        response = await site.client.request(
            method, f"{prefix}{path}", **sent(method, path, headers | tenant)
        )
        assert not shows(response), (method, path, response.text)
        if path == "/" and method == "POST" and response.status_code == 200:
            statuses = [e["response"]["status"][:3] for e in response.json()["entry"]]
            assert statuses == ["403"] * 3
        elif path in LISTS and response.status_code == 200:
            assert not any(word in response.text for word in ('"entry"', '"url":"/', MARK))
            assert '"export":[{' not in response.text
        elif method == "OPTIONS" and response.status_code == 204:
            assert client in WITHOUT_RIGHTS  # the methods of an address are no secret
        else:
            assert response.status_code in status | {405}, (method, path, response.text)
    await unharmed(site, values)


@pytest.mark.parametrize("client", ELSEWHERE)
async def test_clients_with_other_rights_see_nothing(site, values, client):
    for path, method, (prefix, tenant) in requests(site, values):
        if method == "POST" and path.endswith("$export"):
            continue  # an export of their own
        response = await site.client.request(
            method, f"{prefix}{path}", **sent(method, path, bearer(client) | tenant)
        )
        assert "family" not in response.text, (method, path)
        assert '"output"' not in response.text, (method, path)
        assert '"total":1' not in response.text, (method, path)
    await unharmed(site, values)


async def unharmed(site, values):
    """Check that the owner still has everything, as it was."""
    read = await site.client.get(f"/Patient/{MARK}", headers=bearer(OWNER))
    path = f"/export-file/{values['job_id']}/{values['name']}"
    file = await site.client.get(path, headers=bearer(OWNER))
    assert read.json()["meta"]["versionId"] == "2"
    assert MARK in file.text
