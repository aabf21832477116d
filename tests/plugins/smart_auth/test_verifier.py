"""The verifier, held to its contract, and what makes a token invalid before it expires."""

import asyncio
import time
from datetime import timedelta
from typing import ClassVar

import pytest
from msgspec.structs import replace

import helios_smart_auth
from helios_core import Backends, BackendUnavailable, InvalidToken, Principal
from helios_core.memory import MemoryDataProvider, MemoryJobStore, MemoryOutputStore
from helios_core.testing import RouteSuite, TokenVerifierSuite
from helios_smart_auth import access_tokens, signing_keys
from helios_smart_auth.discovery import issuer_of
from helios_smart_auth.signed import sign
from tests.plugins.smart_auth.issuing import BASE, Server, ec_key, form, header


class Fragile(MemoryJobStore):
    """A store that can be down."""

    up = True

    async def record(self, namespace, key):
        if not self.up:
            raise BackendUnavailable("the store is down")
        return await super().record(namespace, key)


class TestSmartVerifier(TokenVerifierSuite):
    settings: ClassVar = {"base_url": BASE}

    @pytest.fixture
    def extension(self):
        return helios_smart_auth.helios_token_verifier()

    @pytest.fixture
    def backends(self):
        self.store = Fragile()
        self.server = Server(self.store, now=time.time())
        return Backends(
            data_provider=MemoryDataProvider(),
            job_store=self.store,
            output_store=MemoryOutputStore(),
            announce=lambda _: None,
        )

    async def client(self):
        found = await self.server.clients.get("lab")
        return found or await self.server.register(tenant="north")

    async def valid_token(self):
        return await self.server.issuer.issue(await self.client(), ("system/*.rs",), BASE)

    def principal(self):
        return Principal(
            issuer=BASE,
            subject="lab",
            client_id="lab",
            scopes=("system/*.rs",),
            tenant="north",
            expires_at=None,
        )

    async def invalid_tokens(self):
        client = await self.client()
        return {
            "expired": await self.issued(client, ahead=-timedelta(seconds=301)),
            "of another issuer": await self.changed(iss="https://other.example"),
            "for another audience": await self.changed(aud="https://other.example"),
            "for another server": await self.changed(iss=f"{BASE}/b", aud=f"{BASE}/b"),
            "signed with another key": await self.changed(key=ec_key("x")),
            "of another kid": await self.changed(kid="unknown"),
            "of another typ": await self.changed(typ="JWT"),
            "of a client that is gone": await self.changed(client_id="gone", sub="gone"),
            "of another registration": await self.changed(registration="0"),
            "without exp": await self.changed(exp=None),
            "with text as exp": await self.changed(exp="never"),
            "without scope": await self.changed(scope=None),
        }

    async def issued(self, client, *, ahead):
        late = Server(self.store, now=time.time() + ahead.total_seconds())
        return await late.issuer.issue(client, ("system/*.rs",), BASE)

    async def changed(self, *, key=None, kid=None, typ="at+jwt", **changes):
        client = await self.client()
        own_kid, own = await self.server.keys.signer()
        now = int(time.time())
        claims = {
            "iss": BASE,
            "aud": BASE,
            "sub": "lab",
            "client_id": "lab",
            "scope": "system/*.rs",
            "iat": now,
            "exp": now + 300,
            "jti": "x",
            "registration": client.registration,
        }
        claims = {name: value for name, value in (claims | changes).items() if value is not None}
        return sign(header(own, kid=kid or own_kid, typ=typ), claims, key or own)

    async def make_unavailable(self):
        token = await self.valid_token()
        self.store.up = False
        return token


class TestSmartRoutes(RouteSuite):
    @pytest.fixture
    def extension(self):
        return helios_smart_auth.helios_routes()


@pytest.fixture
def impatient(monkeypatch):
    """Ask the store every time."""
    monkeypatch.setattr(access_tokens, "KNOWN_SECONDS", 0)
    monkeypatch.setattr(signing_keys, "FRESH_SECONDS", 0)


async def test_the_token_of_a_client_carries_its_tenant_and_scopes(server):
    await server.register(tenant="north", scopes=("system/Patient.rs", "system/Group.r"))

    principal = await server.tokens.verify(await server.token(scope="system/*.read"))

    assert principal.tenant == "north"
    assert principal.scopes == ("system/Patient.rs", "system/Group.r")
    assert principal.expires_at.timestamp() == server.now + 300


async def test_a_token_ends_with_its_time(server):
    await server.register()
    token = await server.token()
    await server.tokens.verify(token)

    server.now += 300

    with pytest.raises(InvalidToken, match="expired"):
        await server.tokens.verify(token)


@pytest.mark.usefixtures("impatient")
async def test_a_token_ends_with_its_client(server):
    await server.register()
    token = await server.token()

    await server.clients.change("lab", lambda client: replace(client, disabled=True))
    with pytest.raises(InvalidToken, match="disabled"):
        await server.tokens.verify(token)
    await server.clients.change("lab", lambda client: replace(client, disabled=False))
    await server.tokens.verify(token)
    await server.clients.remove("lab")
    with pytest.raises(InvalidToken):
        await server.tokens.verify(token)
    await server.register()
    with pytest.raises(InvalidToken):
        await server.tokens.verify(token)


@pytest.mark.usefixtures("impatient")
async def test_a_retired_key_verifies_until_its_tokens_have_expired(server):
    await server.register()
    token = await server.token()

    ring = await server.keys.rotate()

    assert [("d" in key.jwk) for key in ring.keys] == [True, False]
    assert not any("d" in key for key in ring.public)
    await server.tokens.verify(token)
    await server.tokens.verify(await server.token(scope="system/Patient.rs"))
    server.now += 1000
    assert len((await server.keys.rotate()).keys) == 2


@pytest.mark.usefixtures("impatient")
async def test_a_revoked_key_verifies_nothing(server):
    await server.register()
    token = await server.token()
    await server.tokens.verify(token)

    await server.keys.rotate(revoke=True)

    with pytest.raises(InvalidToken):
        await server.tokens.verify(token)


async def test_a_token_of_a_key_that_another_process_has_just_made_is_accepted(server):
    await server.register()
    other = Server(server.clients._records)
    await other.tokens.verify(await server.token())
    await server.keys.rotate()
    tokens = [await server.token(scope=f"system/Patient.rs {n}") for n in range(3)]

    found = await asyncio.gather(*map(other.tokens.verify, tokens))

    assert [principal.scopes for principal in found] == [("system/Patient.rs",)] * 3


async def test_a_token_of_a_client_that_was_registered_anew_a_moment_ago_is_accepted(server):
    await server.register()
    other = Server(server.clients._records)
    old = await server.token()
    await other.tokens.verify(old)
    await server.clients.remove("lab")
    await server.register()

    assert await other.tokens.verify(await server.token(scope="system/Patient.rs"))
    with pytest.raises(InvalidToken):
        await other.tokens.verify(old)


async def test_a_flood_of_unknown_keys_does_not_read_the_keys_each_time(server, monkeypatch):
    for name in ("FRESH_SECONDS", "FORCED_SECONDS"):
        monkeypatch.setattr(signing_keys, name, 3600)
    await server.register()
    _, key = await server.keys.signer()
    reads = []
    record = server.clients._records.record

    async def counted(*names):
        reads.append(names)
        return await record(*names)

    monkeypatch.setattr(server.clients._records, "record", counted)
    tokens = [sign(header(key, kid=f"{n}", typ="at+jwt"), {}, key) for n in range(20)]
    found = await asyncio.gather(*map(server.tokens.verify, tokens), return_exceptions=True)

    assert {type(each) for each in found} == {InvalidToken}
    assert len(reads) == 1


async def test_a_token_of_another_base_is_refused_only_where_the_base_is_set(server):
    await server.register()
    token = await server.token()
    store = server.clients._records

    await Server(store, base_url=None).tokens.verify(token)
    with pytest.raises(InvalidToken, match="another server"):
        await Server(store, base_url="https://b.example").tokens.verify(token)


async def test_what_is_known_of_tokens_is_bounded(server, monkeypatch):
    monkeypatch.setattr(access_tokens, "MOST_KNOWN", 3)
    await server.register()
    for number in range(10):
        server.now += 1
        await server.tokens.verify(await server.token(scope=f"system/Patient.rs x{number}"))

    assert len(server.tokens._known) == 3


async def test_a_client_registered_without_the_scope_of_a_form_gets_none(server):
    await server.register(scopes=("system/Patient.rs",))

    status, answer = await server.post(form(scope="system/Observation.rs"))

    assert (status, answer["error"]) == (400, "invalid_scope")


@pytest.mark.parametrize(
    ("base", "base_url", "issuer"),
    [
        ("https://a.example/fhir", "https://a.example/fhir", "https://a.example/fhir"),
        ("https://a.example/fhir/north", "https://a.example/fhir/", "https://a.example/fhir"),
        ("https://a.example:8443", None, "https://a.example:8443"),
        ("https://a.example:8443/north", None, "https://a.example:8443"),
    ],
)
def test_the_issuer_is_one_for_all_tenants(base, base_url, issuer):
    assert issuer_of(base, base_url) == issuer
