"""A client that gets its tokens by SMART Backend Services."""

import json
import time
from urllib.parse import parse_qs

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from helios_core.client import backend_services
from helios_core.client.backend_services import BackendServices, TokenRefused
from helios_core.client.errors import ServerUnreachable
from helios_core.client.export import ExportOptions, export
from helios_core.client.kickoff import ClientRequest
from helios_core.client.signing_keys import read_signing_key
from helios_core.errors import ConfigurationError
from tests.client.scripted import Reply

NESTED = b"[" * 100_000 + b"]" * 100_000
LINE = b'{"resourceType":"Patient","id":"a"}\n'
EC = ECKey.generate_key("P-384", {"kid": "ec"}, private=True)
RSA = RSAKey.generate_key(2048, {"kid": "rsa"}, private=True)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Wait for nothing between two attempts."""
    monkeypatch.setattr(backend_services, "_FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
def key_file(tmp_path):
    def write(key=EC, name="key.json"):
        path = tmp_path / name
        content = key if isinstance(key, str) else json.dumps(key.as_dict(private=True))
        path.write_text(content)
        return path

    return write


def issue(server, *tokens):
    configuration = {"token_endpoint": f"{server.url}/auth/token"}
    server.say(
        "GET", "/.well-known/smart-configuration", Reply(body=json.dumps(configuration).encode())
    )
    for token in tokens:
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": 300}
        server.say("POST", "/auth/token", Reply(body=json.dumps(answer).encode()))


def forms(server):
    return [
        {name: value for name, [value] in parse_qs(request.body.decode()).items()}
        for request in server.requests
        if request.path == "/auth/token"
    ]


@pytest.mark.parametrize(("key", "algorithm"), [(EC, "ES384"), (RSA, "RS384")])
async def test_a_token_is_asked_for_with_a_signed_assertion(server, key_file, key, algorithm):
    """RC-03: what SMART App Launch 2.2 requires of clients."""
    issue(server, "one")

    header = await BackendServices(server.url, "lab", key_file(key)).header()

    assert header == "Bearer one"
    [form] = forms(server)
    assertion = jws.deserialize_compact(form.pop("client_assertion"), key, algorithms=[algorithm])
    claims = json.loads(assertion.payload)
    assert form == {
        "grant_type": "client_credentials",
        "scope": "system/*.read",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    }
    assert assertion.headers() == {"alg": algorithm, "kid": key.kid, "typ": "JWT"}
    assert claims["iss"] == claims["sub"] == "lab"
    assert claims["aud"] == f"{server.url}/auth/token"
    assert claims["exp"] - time.time() < 300
    assert len(claims["jti"]) >= 32


async def test_a_token_is_used_until_most_of_its_life_is_over(server, key_file, monkeypatch):
    issue(server, "one", "two")
    credentials = BackendServices(server.url, "lab", key_file(), scope="system/Patient.rs")
    now = time.monotonic()
    monkeypatch.setattr(backend_services.time, "monotonic", lambda: now)
    assert [await credentials.header() for _ in range(3)] == ["Bearer one"] * 3
    now += 239
    assert await credentials.header() == "Bearer one"

    now += 2

    assert await credentials.header() == "Bearer two"
    first, second = forms(server)
    assert first["scope"] == "system/Patient.rs"
    assert first["client_assertion"] != second["client_assertion"]


async def test_a_token_that_is_refused_is_renewed_once(server, key_file, tmp_path):
    issue(server, "one", "two")
    server.say("GET", "/$export", Reply(401))
    server.exports({"type": "Patient", "url": f"{server.url}/a", "count": 1})
    server.say("GET", "/a", Reply(body=LINE))
    credentials = BackendServices(server.url, "lab", key_file())

    await export(
        ClientRequest(base_url=server.url),
        tmp_path / "out",
        ExportOptions(credentials=credentials),
    )

    sent = [r.headers["authorization"] for r in server.requests if "authorization" in r.headers]
    assert sent[0] == "Bearer one"
    assert set(sent[1:]) == {"Bearer two"}
    assert len(forms(server)) == 2


async def test_one_who_was_refused_later_takes_the_new_token(server, key_file):
    issue(server, "one", "two", "three")
    credentials = BackendServices(server.url, "lab", key_file())
    refused = await credentials.header()

    assert await credentials.renewed(refused)
    assert await credentials.renewed(refused)

    assert await credentials.header() == "Bearer two"


async def test_the_words_of_a_refusal_are_passed_on(server, key_file):
    issue(server)
    body = {"error": "invalid_client", "error_description": "unknown\x1b[31m kid"}
    server.say("POST", "/auth/token", Reply(400, body=json.dumps(body).encode()))

    with pytest.raises(TokenRefused, match=r"invalid_client: unknown\[31m kid") as caught:
        await BackendServices(server.url, "lab", key_file()).header()

    assert forms(server)[0]["client_assertion"] not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{}",
        b'{"access_token": "a b", "token_type": "bearer"}',
        b"\xff",
        b'{"access_token": "a", "token_type": "mac"}',
        b'{"access_token": 1, "token_type": "bearer"}',
        b'{"access_token": "\xff", "token_type": "bearer"}',
    ],
)
async def test_what_is_no_token_is_refused(server, key_file, answer):
    issue(server)
    server.say("POST", "/auth/token", Reply(body=answer))

    with pytest.raises(TokenRefused, match="without a bearer token"):
        await BackendServices(server.url, "lab", key_file()).header()


async def test_a_busy_endpoint_is_asked_again_with_a_new_assertion(server, key_file):
    issue(server)
    server.say("POST", "/auth/token", Reply(503), Reply(429))
    issue(server, "one")

    assert await BackendServices(server.url, "lab", key_file()).header() == "Bearer one"
    assert len({form["client_assertion"] for form in forms(server)}) == 3


async def test_an_endpoint_that_stays_busy_is_given_up(server, key_file):
    issue(server)
    server.say("POST", "/auth/token", Reply(503))

    with pytest.raises(
        TokenRefused, match=r"returned 503 to the last of 5 requests: it, or a service"
    ):
        await BackendServices(server.url, "lab", key_file()).header()


async def test_a_renewal_outlives_what_other_requests_outlive(server, key_file):
    issue(server, "one")
    credentials = BackendServices(server.url, "lab", key_file())
    header = await credentials.header()
    server.scripts["POST", "/auth/token"].clear()
    server.say("POST", "/auth/token", Reply(503), *[Reply(500)] * 6)
    issue(server, "two")

    assert await credentials.renewed(header)
    assert await credentials.header() == "Bearer two"


async def test_a_server_that_is_down_is_unreachable(key_file, unused_tcp_port):
    with pytest.raises(ServerUnreachable):
        await BackendServices(f"http://127.0.0.1:{unused_tcp_port}", "lab", key_file()).header()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(404),
        Reply(body=b"{}"),
        Reply(body=b"<html>"),
        Reply(body=b'{"token_endpoint":1}'),
        Reply(body=b'{"token_endpoint":' + NESTED + b"}"),
    ],
)
async def test_a_server_without_a_token_endpoint_is_named(server, key_file, reply):
    server.say("GET", "/.well-known/smart-configuration", reply)

    with pytest.raises(TokenRefused, match="names no token endpoint"):
        await BackendServices(server.url, "lab", key_file()).header()


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://xn--/token",
        "http://[::1/token",
        "http://127.0.0.1:port/token",
        "http://127.0.0.1/\x1b[2J",
        "http:///token",
        "ftp://127.0.0.1/token",
        "//127.0.0.1/token",
        "/token",
        "",
    ],
)
async def test_an_endpoint_that_is_no_address_is_refused(server, key_file, endpoint):
    body = json.dumps({"token_endpoint": endpoint}).encode()
    server.say("GET", "/.well-known/smart-configuration", Reply(body=body))

    with pytest.raises(TokenRefused, match=r"not a valid URL|without TLS"):
        await BackendServices(server.url, "lab", key_file()).header()


@pytest.mark.parametrize("key", [EC, RSA])
def test_a_key_is_read_from_any_form(key_file, key):
    pem = key.as_pem(private=True).decode()
    both = json.dumps({"keys": [k.as_dict(private=True) for k in (EC, RSA)]})
    public_too = json.dumps({"keys": [key.as_dict(private=True), EC.as_dict(private=False)]})

    assert read_signing_key(key_file(key)).kid == key.kid
    assert read_signing_key(key_file(pem)).kid == key.thumbprint()
    assert read_signing_key(key_file(f"Bag Attributes\n  x: 1\n{pem}")).kid == key.thumbprint()
    assert read_signing_key(key_file(pem), "mine").kid == "mine"
    assert read_signing_key(key_file(both), key.kid).kid == key.kid
    assert read_signing_key(key_file(public_too)).kid == key.kid


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not json",
        '{"keys": ' + NESTED.decode() + "}",
        "{}",
        '{"keys": []}',
        '{"keys": 1}',
        '{"kty": "oct", "k": "c2VjcmV0"}',
        '{"kty": "EC"}',
        json.dumps(EC.as_dict(private=False)),
        json.dumps({"keys": [EC.as_dict(private=True), RSA.as_dict(private=True)]}),
        ECKey.generate_key("P-256", private=True).as_pem(private=True).decode(),
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        EC.as_pem(private=False).decode(),
        json.dumps(EC.as_dict(private=True) | {"alg": "ES256"}),
        json.dumps(RSA.as_dict(private=True) | {"alg": "RS256"}),
        json.dumps(EC.as_dict(private=True) | {"use": "enc"}),
        json.dumps(EC.as_dict(private=True) | {"key_ops": ["verify"]}),
    ],
    ids=[
        "nothing",
        "text",
        "nested",
        "object",
        "empty set",
        "no set",
        "secret",
        "no numbers",
        "public",
        "two keys",
        "another curve",
        "broken PEM",
        "public PEM",
        "another algorithm",
        "another algorithm of RSA",
        "encryption",
        "verification only",
    ],
)
def test_a_file_without_one_usable_key_is_refused(key_file, content):
    with pytest.raises(ConfigurationError) as caught:
        read_signing_key(key_file(content))

    assert "c2VjcmV0" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        EC.as_pem(private=False).decode(),
        RSA.as_pem(private=False).decode(),
        json.dumps({"keys": [EC.as_dict(private=False)]}),
        json.dumps({"keys": []}),
    ],
)
def test_a_file_without_a_private_key_says_which_file_is_needed(key_file, content):
    with pytest.raises(ConfigurationError, match="no private RSA or EC key; name the file with"):
        read_signing_key(key_file(content))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_signing_key(tmp_path / "none")


@pytest.mark.parametrize("kid", [None, "another"])
def test_the_names_of_the_keys_are_listed_where_one_has_to_be_selected(key_file, kid):
    both = json.dumps({"keys": [k.as_dict(private=True) for k in (EC, RSA)]})

    with pytest.raises(ConfigurationError, match=r"2 private keys \(ec, rsa\)"):
        read_signing_key(key_file(both), kid)


def test_what_is_kept_of_the_credentials_is_no_secret(key_file):
    path = key_file()
    credentials = BackendServices("https://a.example", "lab", path, key_id="ec")

    assert credentials.origin == {
        "client_id": "lab",
        "key": str(path),
        "key_id": "ec",
        "scope": "system/*.read",
    }
