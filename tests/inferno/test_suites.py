"""
The tests of Inferno's Bulk Data suites v2.0.0 (48) and v1.0.1 (39), each under its own id.

Group 1 is about SMART, group 2 about exports of a Group (2.2), of all patients (2.3) and of the
system (2.4): 9 tests, and 13 for each level. Suite v1.0.1 differs in 1.1.02, and has neither
2.x.3.02 nor 2.x.4.
"""

import json
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlsplit

import httpx
import pytest
from fhir.resources.R4B import get_fhir_model_class
from joserfc.jwk import ECKey

from tests.inferno.kit import NEW_VERSIONS, OLD_VERSIONS

LEVELS = {"2.2": "group", "2.3": "patient", "2.4": "system"}


@pytest.fixture(params=LEVELS)
def level(request):
    return LEVELS[request.param]


@pytest.fixture
def export(exports, level):
    return exports(level)


def json_of(response):
    assert response.headers["content-type"].startswith("application/json")
    return response.json()


def kicked_off(response):
    assert response.status_code == 202, response.text
    location = response.headers["content-location"]
    assert urlsplit(location).scheme == "https"
    return location


def over_tls_only(kit, url):
    spoken = kit.spoken_versions(url)
    assert not spoken.intersection(OLD_VERSIONS)
    assert spoken.intersection(NEW_VERSIONS)


def valid(resource):
    """Have a library that is not ours look at a resource."""
    get_fhir_model_class(resource["resourceType"]).model_validate(resource)


def test_1_1_01_the_smart_configuration_can_be_reached(kit):
    """INF-1.1.01"""
    assert kit.configuration.status_code == 200
    json_of(kit.configuration)


def test_1_1_02_the_smart_configuration_has_its_required_fields(kit):
    """INF-1.1.02, TR-71, SM-02, SM-03, SM-04, SM-05"""
    found = kit.configuration.json()
    texts = ("authorization_endpoint", "token_endpoint")
    lists = ("capabilities", "grant_types_supported", "code_challenge_methods_supported")
    for name in texts:
        assert isinstance(found[name], str), name
        assert found[name].startswith("https://")
    for name in lists:
        assert isinstance(found[name], list), name
        assert found[name], name
        assert all(isinstance(item, str) for item in found[name])
    assert "authorization_code" in found["grant_types_supported"]
    assert "client_credentials" in found["grant_types_supported"]
    assert "S256" in found["code_challenge_methods_supported"]
    assert "plain" not in found["code_challenge_methods_supported"]
    if "sso-openid-connect" in found["capabilities"]:
        assert isinstance(found["issuer"], str)
        assert isinstance(found["jwks_uri"], str)


def test_1_1_02_of_v101_the_smart_configuration_announces_asymmetric_keys(kit):
    """INF-1.1.02-v1"""
    found = kit.configuration.json()
    assert urlsplit(found["token_endpoint"]).scheme == "https"
    assert "private_key_jwt" in found["token_endpoint_auth_methods_supported"]
    algorithms = found["token_endpoint_auth_signing_alg_values_supported"]
    assert {"RS384", "ES384"}.intersection(algorithms)
    assert isinstance(found["scopes_supported"], list)


def test_1_2_01_the_token_endpoint_is_over_tls_only(kit):
    """INF-1.2.01"""
    over_tls_only(kit, kit.token_url)


def test_1_2_02_a_wrong_grant_type_is_refused(kit):
    """INF-1.2.02"""
    assert kit.request_token(grant_type="not_a_grant_type").status_code == 400


def test_1_2_03_a_wrong_assertion_type_is_refused(kit):
    """INF-1.2.03"""
    response = kit.request_token(client_assertion_type="not_an_assertion_type")
    assert response.status_code in {400, 401}


def test_1_2_04_a_wrong_assertion_is_refused(kit):
    """INF-1.2.04: the kit sends 1.2.03 once more; a broken signature is what it means."""
    again = kit.request_token(client_assertion_type="not_an_assertion_type")
    assert again.status_code in {400, 401}
    stranger = ECKey.generate_key("P-384", {"alg": "ES384", "kid": kit.target.key.kid})
    assert kit.request_token(key=stranger).status_code in {400, 401}


def test_1_2_05_a_token_is_issued(kit):
    """INF-1.2.05, SM-07, TR-78: with keys that were registered, or that are read over TLS."""
    assert kit.request_token().status_code == 200


def test_1_2_06_the_token_response_is_complete(kit):
    """INF-1.2.06"""
    found = json_of(kit.request_token())
    assert found["access_token"]
    assert found["token_type"].lower() == "bearer"
    assert isinstance(found["expires_in"], int)
    assert found["scope"]


def test_2_1_01_the_api_is_over_tls_only(kit):
    """INF-2.1.01, B2-SEC-01"""
    over_tls_only(kit, kit.base)


def test_2_x_1_01_the_capability_statement_has_the_operation(kit, level):
    """INF-2.x.1.01"""
    response = kit.http.get(f"{kit.base}/metadata", headers={"Accept": "application/fhir+json"})
    assert response.status_code == 200
    rest = response.json()["rest"][-1]
    if level != "system":
        [rest] = [each for each in rest["resource"] if each["type"].lower() == level]
    assert "export" in {operation["name"] for operation in rest["operation"]}


def test_2_x_1_02_a_kick_off_without_a_token_is_refused(kit, level):
    """INF-2.x.1.02, RV-04"""
    assert kit.kick_off(level, token=False).status_code in {400, 401}


def test_2_x_1_03_a_kick_off_has_a_status_url(kit, level):
    """INF-2.x.1.03"""
    location = kicked_off(kit.kick_off(level))
    assert kit.delete(location).status_code == 202


def test_2_x_1_04_the_status_becomes_a_manifest(export):
    """INF-2.x.1.04"""
    assert export.status.status_code == 200
    assert "application/json" in export.status.headers["content-type"]
    manifest = export.status.json()
    required = {"transactionTime", "request", "requiresAccessToken", "output", "error"}
    assert required <= set(manifest)


def test_2_x_1_05_the_output_items_are_complete(export):
    """INF-2.x.1.05"""
    assert export.outputs
    for item in export.outputs:
        assert item["type"]
        assert item["url"].startswith(("http://", "https://"))


def test_2_x_2_01_the_file_server_is_over_tls_only(kit, export):
    """INF-2.x.2.01"""
    over_tls_only(kit, export.outputs[0]["url"])


def test_2_x_2_02_a_download_without_a_token_is_refused_if_one_is_required(kit, export):
    """
    INF-2.x.2.02, B2-SEC-04, B2-SEC-06, B2-MF-05, TR-40

    The kit skips this where no token is required; the file has to open then.
    """
    response = kit.download(export.outputs[0]["url"], {})
    assert export.requires_access_token is kit.target.requires_access_token
    assert response.status_code in ({400, 401} if export.requires_access_token else {200})


def test_2_x_2_03_every_line_is_a_valid_resource(export):
    """INF-2.x.2.03"""
    assert export.files
    for type_, response in export.files:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("application/fhir+ndjson")
        lines = response.content.splitlines()
        assert lines
        for line in lines:
            resource = json.loads(line)
            assert resource["resourceType"] == type_
            valid(resource)


def test_2_x_2_04_there_are_two_patients_at_least(export):
    """INF-2.x.2.04"""
    lines = [
        line
        for type_, response in export.files
        if type_ == "Patient"
        for line in response.content.splitlines()
    ]
    assert len({json.loads(line)["id"] for line in lines}) >= 2


def test_2_x_3_01_an_export_can_be_cancelled(kit, level):
    """INF-2.x.3.01"""
    location = kicked_off(kit.kick_off(level))
    assert kit.delete(location).status_code == 202


def test_2_x_3_02_a_cancelled_export_is_not_there(kit, level):
    """INF-2.x.3.02"""
    location = kicked_off(kit.kick_off(level))
    kit.delete(location)

    response = kit.http.get(location, headers={"Accept": "application/json"} | kit.bearer)

    assert response.status_code == 404
    assert response.json()["resourceType"] == "OperationOutcome"
    valid(response.json())


@pytest.mark.parametrize("format_", ["application/fhir+ndjson", "application/ndjson", "ndjson"])
def test_2_x_4_01_the_output_format_may_be_named(kit, level, format_):
    """INF-2.x.4.01"""
    response = kit.kick_off(level, query=f"?_outputFormat={quote(format_, safe='')}")
    assert kit.delete(kicked_off(response)).status_code == 202


def test_2_x_4_02_since_may_be_named(kit, level):
    """INF-2.x.4.02"""
    week_ago = (datetime.now(UTC) - timedelta(days=7)).strftime("%Y-%m-%dT%H:%M:%SZ")
    response = kit.kick_off(level, query=f"?_since={quote(week_ago, safe='')}")
    assert kit.delete(kicked_off(response)).status_code == 202


@pytest.mark.parametrize("value", ["Bearer ", "Bearer", "bearer\t"])
def test_an_empty_bearer_is_no_credential(kit, level, value):
    """The kit sends `Authorization: Bearer ` to an open server (section 3.0)."""
    status, challenge = kit.raw_kick_off(level, value)

    assert status == 401
    assert challenge == "Bearer"


def test_a_certificate_of_somebody_else_is_not_the_servers(kit):
    """The checks of TLS would see a server that anybody can be."""
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{kit.base}/health")
