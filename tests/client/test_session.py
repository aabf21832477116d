"""Who gets which header, and failed connections in words."""

import ssl

import httpx
import msgspec
import pytest

from helios_core.client.credentials import TokenFile
from helios_core.client.errors import ExportFailed, RequestRefused, ServerUnreachable
from helios_core.client.export import ExportOptions, export
from helios_core.client.kickoff import ClientRequest
from helios_core.client.session import Session, unreachable
from helios_core.errors import ConfigurationError
from tests.client import scripted
from tests.client.scripted import Reply

LINE = b'{"resourceType":"Patient","id":"a"}\n'


@pytest.fixture
async def store():
    """Another origin, where a server may keep its files."""
    async with scripted.running() as store:
        yield store


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.write_text("first\n")
    return path


def options(token):
    return ExportOptions(credentials=TokenFile(token))


async def test_every_request_to_the_server_carries_the_token(server, tmp_path, token):
    server.exports({"type": "Patient", "url": f"{server.url}/a", "count": 1})
    server.say("GET", "/a", Reply(body=LINE))

    await export(ClientRequest(base_url=server.url), tmp_path / "out", options(token))

    assert len(server.requests) == 4
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer first"}


@pytest.mark.parametrize("path", ["/$export", "/jobs/1", "/a"])
async def test_a_refused_token_is_read_again(server, tmp_path, token, path):
    server.say("GET", path, Reply(401))
    server.exports({"type": "Patient", "url": f"{server.url}/a", "count": 1})
    server.say("GET", "/a", Reply(body=LINE))
    credentials = TokenFile(token)
    await credentials.header()
    token.write_text("second")  # what another program does while the export runs

    again = ExportOptions(credentials=credentials)
    await export(ClientRequest(base_url=server.url), tmp_path / "out", again)

    assert server.requests[0].headers["authorization"] == "Bearer first"
    assert server.asked("GET", path)[-1].headers["authorization"] == "Bearer second"


async def test_a_token_that_stays_refused_names_the_option(server, tmp_path, token):
    server.say("GET", "/$export", Reply(401))

    with pytest.raises(RequestRefused, match="--token-file"):
        await export(ClientRequest(base_url=server.url), tmp_path / "out", options(token))

    assert len(server.requests) == 1


@pytest.mark.parametrize("content", ["", "two words", "two\nlines", "\x00", "ä"])
async def test_what_is_no_token_is_refused_and_not_shown(server, tmp_path, content):
    path = tmp_path / "token"
    path.write_text(content)

    with pytest.raises(ConfigurationError, match="token") as refused:
        await export(ClientRequest(base_url=server.url), tmp_path / "out", options(path))

    assert server.requests == []
    assert not content or content not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("redirected", [False, True])
async def test_secrets_go_to_no_other_origin(server, store, tmp_path, token, redirected):
    url = f"{server.url}/a" if redirected else f"{store.url}/signed?sig=x"
    server.exports({"type": "Patient", "url": url, "count": 1})
    server.say("GET", "/a", Reply(302, {"Location": f"{store.url}/signed?sig=x"}))
    store.say("GET", "/signed", Reply(body=LINE))
    request = ClientRequest(base_url=server.url, headers={"X-Tenant-ID": "acme", "X-Key": "hush"})

    await export(request, tmp_path / "out", options(token))

    [seen] = store.requests
    assert not {"authorization", "x-key", "x-tenant-id"} & seen.headers.keys()
    assert all(request.headers["x-key"] == "hush" for request in server.requests)


async def test_a_store_that_needs_the_token_gets_it(server, store, tmp_path, token):
    files = {"type": "Patient", "url": f"{store.url}/a", "count": 1}
    server.exports(files, requiresAccessToken=True)
    store.say("GET", "/a", Reply(body=LINE))

    await export(ClientRequest(base_url=server.url), tmp_path / "out", options(token))

    assert store.requests[0].headers["authorization"] == "Bearer first"


@pytest.mark.parametrize(("headers", "secret"), [({}, True), ({"X-Key": "hush"}, False)])
async def test_secrets_of_a_server_with_tls_go_nowhere_without(token, headers, secret):
    credentials = TokenFile(token) if secret else None
    async with Session.open("https://fhir.example/r4", headers, credentials) as session:
        session.trust("https://files.example/a?sig=x")
        for url in ("http://fhir.example/r4/jobs/1", "http://fhir.example:443/a?sig=x"):
            with pytest.raises(ExportFailed, match="without TLS") as refused:
                session.trust(url)
            assert "sig" not in str(refused.value)


async def test_without_secrets_and_without_tls_every_address_is_used(token):
    async with Session.open("https://fhir.example", {}, None) as session:
        session.trust("http://fhir.example/jobs/1")
    async with Session.open("http://fhir.example", {}, TokenFile(token)) as session:
        session.trust("http://files.example/a")


async def test_preferences_are_added_to_the_one_that_is_needed(server, tmp_path):
    server.exports()
    request = ClientRequest(base_url=server.url, headers={"Prefer": "handling=lenient"})

    await export(request, tmp_path)

    kick_off, *others = server.requests
    assert kick_off.headers["prefer"] == "respond-async, handling=lenient"
    assert not any("prefer" in request.headers for request in others)


async def test_a_refusal_has_every_issue_in_words(server, tmp_path):
    issues = [
        {"severity": "error", "code": "value", "diagnostics": "one thing"},
        {"severity": "error", "code": "value", "details": {"text": "another"}},
    ]
    outcome = {"resourceType": "OperationOutcome", "issue": issues}
    server.say("GET", "/$export", Reply(400, {}, msgspec.json.encode(outcome)))

    with pytest.raises(RequestRefused, match="returned 400: one thing; another"):
        await export(ClientRequest(base_url=server.url), tmp_path)


async def test_a_refusal_that_is_not_utf_8_is_one_by_its_status(server, tmp_path):
    outcome = b'{"resourceType": "OperationOutcome", "issue": [{"diagnostics": "caf\xe9"}]}'
    server.say("GET", "/$export", Reply(400, {}, outcome))

    with pytest.raises(RequestRefused, match="returned 400"):
        await export(ClientRequest(base_url=server.url), tmp_path)


def failed(kind, cause=None):
    error = kind("words")
    error.__cause__ = cause
    return error


def tls(kind):
    error = kind("words")
    error.reason = error.verify_message = "reason"
    return failed(httpx.ConnectError, error)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (failed(httpx.ConnectError), "HFS_SERVER_PORT"),
        (failed(httpx.ConnectTimeout), "HTTPS_PROXY"),
        (failed(httpx.ReadTimeout), "sent nothing"),
        (failed(httpx.ProxyError), "NO_PROXY"),
        (failed(httpx.RemoteProtocolError), "begins with https"),
        (tls(ssl.SSLCertVerificationError), "SSL_CERT_FILE"),
        (tls(ssl.SSLError), "TLS"),
    ],
)
def test_a_failed_connection_names_the_host_and_what_to_look_at(error, words):
    said = str(unreachable(error, "http://user:hush@fhir.example:81/x?sig=hush"))

    assert "fhir.example port 81" in said
    assert words in said
    assert "hush" not in said


async def test_a_name_without_an_address_is_said():
    async with Session.open("http://nowhere.invalid", {}, None) as session:
        with pytest.raises(ServerUnreachable, match="has no address"):
            await session.request("GET", "http://nowhere.invalid/", headers={}, attempts=1)


@pytest.mark.parametrize("url", ["ftp://x/a", "http://[x", "http://127.0.0.1:99999/a"])
async def test_an_address_in_a_manifest_that_is_none_is_said(server, tmp_path, url):
    server.exports({"type": "Patient", "url": url, "count": 1})

    with pytest.raises(ExportFailed):
        await export(ClientRequest(base_url=server.url), tmp_path)
