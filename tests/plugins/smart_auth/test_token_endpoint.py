"""The token endpoint: what is granted, and a table of attacks, each wrong in one way."""

import asyncio
import json
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from structlog.testing import capture_logs

from helios_core.memory import MemoryJobStore
from helios_smart_auth.token_endpoint import FORM
from tests.plugins.smart_auth.issuing import (
    BASE,
    EC,
    JKU,
    NOW,
    OTHER_JKU,
    RSA,
    SKEW,
    STRANGER,
    TOKEN_URL,
    Server,
    base64url,
    claims,
    ec_key,
    encoded,
    form,
    header,
    hmac_signed,
    public,
    rsa_key,
    signature,
    signed,
)

P256 = ec_key("p256", "P-256")
SHORT = rsa_key("short", 1024)


def parts(token):
    return token.split(".")


def der_signed():
    """A signature as OpenSSL writes it, and not as RFC 7518 wants it."""
    text = ".".join(parts(signed())[:2])
    raw = signature(EC, text)
    half = len(raw) // 2
    der = encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
    return f"{text}.{base64url(der)}"


def body_of(client="lab", **changes):
    return signed(body=claims(client, **changes))


def head_of(key=EC, **changes):
    return signed(key, head=header(key, **changes))


def twice(member, value):
    """A JSON object in which one member stands twice."""
    text = json.dumps(claims())
    return f'{text[:-1]}, "{member}": {json.dumps(value)}}}'.encode()


PUBLIC_TEXT = json.dumps(public(EC)).encode()

FORMS = {
    "no grant type": (form(grant_type=None), "invalid_request"),
    "an empty grant type": (form(grant_type=""), "invalid_request"),
    "another grant type": (form(grant_type="authorization_code"), "unsupported_grant_type"),
    "no such grant type": (form(grant_type="not_a_grant_type"), "unsupported_grant_type"),
    "a refresh": (form(grant_type="refresh_token"), "unsupported_grant_type"),
    "a password": (form(grant_type="password"), "unsupported_grant_type"),
    "a grant type in capitals": (form(grant_type="CLIENT_CREDENTIALS"), "unsupported_grant_type"),
    "no assertion type": (form(client_assertion_type=None), "invalid_request"),
    "another assertion type": (
        form(client_assertion_type="urn:ietf:params:oauth:client-assertion-type:saml2-bearer"),
        "invalid_client",
    ),
    "no such assertion type": (
        form(client_assertion_type="not_an_assertion_type"),
        "invalid_client",
    ),
    "no assertion": (form(client_assertion=None), "invalid_client"),
    "a secret": (form(client_secret="secret"), "invalid_request"),
    "another client id": (form(client_id="other"), "invalid_client"),
    "two grant types": (
        urlencode([*form().items(), ("grant_type", "client_credentials")]).encode(),
        "invalid_request",
    ),
    "two assertions": (
        urlencode([*form().items(), ("client_assertion", "x")]).encode(),
        "invalid_request",
    ),
    "two scopes parameters": (
        urlencode([*form().items(), ("scope", "system/*.cruds")]).encode(),
        "invalid_request",
    ),
    "a body that is no form": (b"\xff\xfe", "invalid_request"),
    "a form of broken escapes": (b"grant_type=%ff%fe", "invalid_request"),
    "a thousand fields": (b"&".join(b"a=%d" % n for n in range(1000)), "invalid_request"),
    "a huge form": (b"scope=" + b"a" * 100_000, "invalid_request"),
    "nothing": (b"", "invalid_request"),
}

ASSERTIONS = {
    # SM-10: the header
    "nothing": "",
    "no JWT": "abc",
    "two parts": "e30.e30",
    "four parts": f"{signed()}.AAAA",
    "dots": "..",
    "a huge one": "a." * 20_000,
    "no JSON header": f"{base64url(b'x')}.{encoded(claims())}.AAAA",
    "a header that is a list": f"{encoded([])}.{encoded(claims())}.AAAA",
    "claims that are a list": signed(body=b"[1]"),
    "claims of deep lists": signed(body=b"[" * 5000),
    "alg twice": signed(head=b'{"alg":"ES384","kid":"ec","typ":"JWT","alg":"ES384"}'),
    "a claim twice": signed(body=twice("exp", NOW + 60)),
    "a number that is none": signed(body=b'{"exp": NaN}'),
    "no alg": head_of(alg=None),
    "alg none": f"{encoded(header(alg='none'))}.{encoded(claims())}.",
    "alg None": f"{encoded(header(alg='None'))}.{encoded(claims())}.",
    "alg none with a signature": head_of(alg="none"),
    "alg that is a list": head_of(alg=["ES384"]),
    "alg es384": head_of(alg="es384"),
    "alg ES256": head_of(alg="ES256"),
    "alg ES512": head_of(alg="ES512"),
    "alg RS256": head_of(RSA, alg="RS256"),
    "alg PS384": head_of(RSA, alg="PS384"),
    "alg EdDSA": head_of(alg="EdDSA"),
    "HMAC with the public key as secret": hmac_signed(PUBLIC_TEXT, header(alg="HS384"), claims()),
    "alg of the other key type": head_of(alg="RS384"),
    "RSA key named by an EC assertion": head_of(kid="rsa"),
    "no kid": head_of(kid=None),
    "an empty kid": head_of(kid=""),
    "a kid that is a number": head_of(kid=1),
    "a long kid": head_of(kid="x" * 1000),
    "an unknown kid": head_of(kid="unknown"),
    "a kid that is a path": head_of(kid="../ec"),
    "no typ": head_of(typ=None),
    "another typ": head_of(typ="at+jwt"),
    "critical parameters": head_of(crit=["exp"]),
    "an empty list of critical parameters": head_of(crit=[]),
    "critical parameters of null": signed(head=header() | {"crit": None}),
    "a payload that is not encoded": head_of(b64=False, crit=["b64"]),
    "a jku that nobody registered": head_of(jku="https://attacker.example/jwks.json"),
    "a jku that is a list": head_of(jku=[JKU]),
    "a jku of null": signed(head=header() | {"jku": None}),
    "a key of its own": signed(
        STRANGER, head=header(STRANGER, kid="mine") | {"jwk": public(STRANGER)}
    ),
    "a certificate of its own": head_of(x5u="https://attacker.example/c", kid="unknown"),
    # SM-11: the claims
    "no iss": body_of(iss=None),
    "no sub": body_of(sub=None),
    "another sub": body_of(sub="other"),
    "another iss": body_of(iss="other"),
    "an iss that is a list": body_of(iss=["lab"], sub=["lab"]),
    "an iss that is no id": body_of(iss="../lab", sub="../lab"),
    "an iss with a line end": body_of(iss="lab\n", sub="lab\n"),
    "an unknown client": body_of("nobody"),
    "no aud": body_of(aud=None),
    "aud is the base": body_of(aud=BASE),
    "aud with a slash at the end": body_of(aud=f"{TOKEN_URL}/"),
    "aud of another server": body_of(aud="https://other.example/token"),
    "aud in capitals": body_of(aud=TOKEN_URL.upper()),
    "aud with a number": body_of(aud=[TOKEN_URL, 1]),
    "an empty aud": body_of(aud=[]),
    "aud that is an object": body_of(aud={TOKEN_URL: 1}),
    # SM-12: the time
    "no exp": body_of(exp=None),
    "exp is past": body_of(exp=NOW - 60),
    "exp was just past the leeway": body_of(exp=NOW - SKEW),
    "exp is ten minutes ahead": body_of(exp=NOW + 600),
    "exp is just beyond the leeway": body_of(exp=NOW + 300 + SKEW + 1),
    "exp is text": body_of(exp=str(NOW + 60)),
    "exp is true": body_of(exp=True),
    "exp is null": signed(body=claims() | {"exp": None}),
    "exp is infinite": signed(body=b'{"exp": 1e999}'),
    "exp has 400 digits": signed(body=json.dumps(claims() | {"exp": 10**400}).encode()),
    "exp is in milliseconds": body_of(exp=(NOW + 60) * 1000),
    "nbf is in the future": body_of(nbf=NOW + 60),
    "nbf is text": body_of(nbf="now"),
    "iat is in the future": body_of(iat=NOW + 60),
    # SM-13: the id
    "no jti": body_of(jti=None),
    "an empty jti": body_of(jti=""),
    "a jti that is a number": body_of(jti=5),
    "a long jti": body_of(jti="x" * 1000),
    # SM-15: the key and the signature
    "signed by a stranger": signed(STRANGER),
    "no signature": ".".join([*parts(signed())[:2], ""]),
    "a signature of zeros": ".".join([*parts(signed())[:2], base64url(bytes(96))]),
    "a signature cut short": ".".join([*parts(signed())[:2], base64url(bytes(95))]),
    "a signature as DER": der_signed(),
    "a signature with padding": f"{signed()}==",
    "a signature of a line more": f"{signed()}\n",
    "the signature of another assertion": ".".join(
        [*parts(signed())[:2], parts(body_of(jti="two"))[2]]
    ),
    "claims that were changed": ".".join(
        [parts(signed())[0], encoded(claims(jti="two")), parts(signed())[2]]
    ),
    "a header that was changed": ".".join([encoded(header(typ="jwt")), *parts(signed())[1:]]),
    "an RSA signature of an EC key": ".".join(
        [*parts(signed())[:2], base64url(signature(RSA, ".".join(parts(signed())[:2])))]
    ),
    "a curve that is too small": signed(P256, head=header(P256)),
    "an RSA key that is too short": head_of(SHORT),
    "a key for encryption": head_of(kid="encrypts"),
    "a key that only signs": head_of(kid="signs"),
    "a key of another algorithm": head_of(kid="other-alg"),
    "two keys of one kid": head_of(kid="double"),
    "a key that everybody knows": head_of(kid="leaked"),
    "an RSA key that everybody knows": head_of(RSA, kid="leaked-rsa"),
    "an exponent of 3000 bits": head_of(RSA, kid="slow"),
}

REGISTERED = [
    public(EC),
    public(RSA),
    public(P256),
    public(SHORT),
    public(EC, kid="encrypts", use="enc"),
    public(EC, kid="signs", key_ops=["sign"]),
    public(EC, kid="other-alg", alg="ES512"),
    public(EC, kid="double"),
    public(STRANGER, kid="double"),
    {**EC.as_dict(private=True), "kid": "leaked"},
    {**public(RSA, kid="leaked-rsa"), "p": RSA.as_dict(private=True)["p"]},
    public(rsa_key("slow", 4096), kid="slow", e="_" * 400),
]

SCOPES = {
    "no scope": form(scope=None),
    "an empty scope": form(scope=" "),
    "scopes of users": form(scope="user/*.rs patient/Patient.read openid launch"),
    "letters in another order": form(scope="system/Patient.sr"),
    "no letters": form(scope="system/Patient."),
    "another context": form(scope="System/Patient.rs"),
    "no context": form(scope="*/*.* bad/Patient.rs"),
    "a word that is no right": form(scope="system/Patient.revoke"),
    "a letter that is no right": form(scope="system/Patient.rsx"),
    "version 1 with a query": form(scope="system/Patient.read?name=x"),
    "only what was not registered": form(scope="system/*.cud"),
    "a huge scope": form(scope="system/Patient.rs " * 1000),
}


async def registered(server):
    await server.register(keys=REGISTERED)
    await server.register("other")
    return server


async def refused(server, fields, error, **more):
    status, answer = await server.post(fields, **more)
    assert (status, answer["error"]) == (400, error), answer
    assert set(answer) == {"error", "error_description"}
    return answer["error_description"]


@pytest.mark.parametrize(("fields", "error"), FORMS.values(), ids=FORMS)
async def test_a_form_that_is_wrong_is_refused(server, fields, error):
    """SM-09, SM-16, RV-26."""
    await refused(await registered(server), fields, error)


@pytest.mark.parametrize("content_type", ["", "application/json", "multipart/form-data", "text/x"])
async def test_a_body_that_is_no_form_is_refused_before_all_else(server, content_type):
    fields = form(grant_type="not_a_grant_type")

    await refused(await registered(server), fields, "invalid_request", content_type=content_type)


async def test_the_character_set_of_a_form_does_not_matter(server):
    await registered(server)

    status, _ = await server.post(form(), content_type=f"{FORM.upper()}; charset=UTF-8")

    assert status == 200


@pytest.mark.parametrize("authorization", ["Basic bGFiOng=", "Bearer x", "x"])
async def test_a_client_that_authenticates_otherwise_is_refused(server, authorization):
    await refused(await registered(server), form(), "invalid_request", authorization=authorization)


@pytest.mark.parametrize("assertion", ASSERTIONS.values(), ids=ASSERTIONS)
async def test_an_assertion_that_is_wrong_is_refused(server, assertion):
    """
    SM-10, SM-11, SM-12, SM-14, SM-15, TR-75, TR-76, RV-25, RV-27: each in every way that it can
    be wrong.
    """
    await registered(server)

    said = await refused(server, form(assertion), "invalid_client")

    shown = [part for part in assertion.split(".") if len(part) > 8 and part in said]
    assert not shown
    assert (await server.post(form()))[0] == 200, "and it has used nothing up"


@pytest.mark.parametrize("fields", SCOPES.values(), ids=SCOPES)
async def test_a_scope_that_grants_nothing_is_refused(server, fields):
    """SM-18, TR-79, RV-24, RV-28."""
    await refused(await registered(server), fields, "invalid_scope")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (form(signed(STRANGER)), "lab"),
        (form(client_id="other"), "lab"),
        (form(scope="system/*.cud"), "lab"),
        (form(body_of("nobody")), None),
        (form("x"), None),
        (form(grant_type="x"), None),
    ],
)
async def test_the_log_of_a_refusal_names_the_registered_client_of_the_assertion(
    server, fields, named
):
    await registered(server)

    with capture_logs() as logs:
        await server.post(fields)

    assert [each["claimed_client"] for each in logs] == [named]
    assert [each["event"] for each in logs] == ["grant.refused"]


@pytest.mark.parametrize(
    ("fields", "content_type", "error"),
    [
        (form("x", grant_type="x", client_assertion_type="x", scope="x"), "x", "invalid_request"),
        (
            form("x", grant_type="x", client_assertion_type="x", scope="x"),
            FORM,
            "unsupported_grant_type",
        ),
        (form("x", client_assertion_type="x", scope="x"), FORM, "invalid_client"),
        (form("x", scope="x"), FORM, "invalid_client"),
        (form(scope="x"), FORM, "invalid_scope"),
    ],
)
async def test_of_several_mistakes_the_first_is_named(server, fields, content_type, error):
    """TR-72: form, grant type, assertion type, assertion, scope."""
    await refused(await registered(server), fields, error, content_type=content_type)


ACCEPTED = {
    "ES384": signed(),
    "RS384": signed(RSA),
    "typ in small letters": head_of(typ="jwt"),
    "exp 300 s ahead": body_of(exp=NOW + 300),
    "exp within the leeway": body_of(exp=NOW + 300 + SKEW),
    "exp is past within the leeway": body_of(exp=NOW - SKEW + 1),
    "exp with a fraction": body_of(exp=NOW + 60.5),
    "iat and nbf": body_of(iat=NOW, nbf=NOW),
    "iat and nbf of a clock that is ahead": body_of(iat=NOW + 5.5, nbf=NOW + SKEW),
    "an aud that is a list": body_of(aud=["https://other.example", TOKEN_URL]),
    "claims that mean nothing": body_of(extra={"a": [1]}),
    "header parameters that mean nothing": head_of(x5t="abc", extra=1),
    "a certificate that is not read": head_of(x5u="https://attacker.example/c"),
}


@pytest.mark.parametrize("assertion", ACCEPTED.values(), ids=ACCEPTED)
async def test_an_assertion_that_is_right_is_accepted(server, assertion):
    """SM-08, SM-12, TR-74, RV-06, RV-29: what is optional may be there and may be missing."""
    await registered(server)

    status, answer = await server.post(form(assertion))

    assert status == 200, answer
    assert answer.keys() == {"access_token", "token_type", "expires_in", "scope"}
    assert (answer["token_type"], answer["expires_in"]) == ("bearer", 300)
    assert answer["scope"] == "system/*.rs"


async def test_client_id_may_be_sent_too(server):
    await registered(server)

    assert (await server.post(form(client_id="lab")))[0] == 200


async def test_an_assertion_is_good_for_one_time(store):
    """SM-13: of one client; another one may use the same id."""
    server = Server(store)
    await registered(server)

    assert (await server.post(form()))[0] == 200
    assert "jti" in await refused(server, form(), "invalid_client")
    assert "jti" in await refused(server, form(body_of(exp=NOW + 200)), "invalid_client")
    assert (await server.post(form(body_of("other"))))[0] == 200


async def test_of_many_equal_requests_at_once_one_gets_a_token(store):
    server = Server(store)
    await registered(server)

    answers = await asyncio.gather(*(server.post(form()) for _ in range(10)))

    assert sorted(status for status, _ in answers) == [200] + [400] * 9


async def test_an_assertion_stays_used_until_the_leeway_is_over(server):
    """TR-73: as long as its exp would be accepted, also by a server whose clock is behind."""
    await registered(server)
    assertion = body_of(exp=NOW + 300 + SKEW)
    assert (await server.post(form(assertion)))[0] == 200

    records = server.clients._records._records
    [kept] = [each for (space, _), each in records.items() if space == "smart_auth.assertions"]
    left = (kept.until - server.clients._records._clock()).total_seconds()

    assert left > 300 + 3 * SKEW - 1


async def test_a_disabled_client_gets_no_token(server):
    await server.register(disabled=True)

    assert "disabled" in await refused(server, form(), "invalid_client")


class TestAddressesOfKeys:
    """SM-15, TR-78."""

    @pytest.fixture
    async def server(self):
        server = Server(MemoryJobStore(), sets={JKU: [public(EC)], OTHER_JKU: [public(RSA)]})
        await server.register(keys=(), jwks_urls=(JKU, OTHER_JKU))
        return server

    @pytest.mark.parametrize(
        "assertion",
        [signed(), signed(RSA), head_of(jku=JKU), head_of(RSA, jku=OTHER_JKU)],
        ids=["no jku", "no jku, second set", "the first jku", "the second jku"],
    )
    async def test_a_key_in_any_registered_set_is_found(self, server, assertion):
        """SM-07, TR-78, RV-06."""
        assert (await server.post(form(assertion)))[0] == 200

    @pytest.mark.parametrize(
        "assertion",
        [
            head_of(jku=OTHER_JKU),
            head_of(jku=f"{JKU}?x"),
            head_of(jku=JKU.upper()),
            head_of(jku=""),
            signed(STRANGER, head=header(STRANGER, jku="https://attacker.example/jwks.json")),
            head_of(kid="unknown"),
        ],
        ids=["another set", "longer", "in capitals", "empty", "a stranger's", "unknown kid"],
    )
    async def test_a_key_in_no_such_set_is_refused(self, server, assertion):
        await refused(server, form(assertion), "invalid_client")

    async def test_the_same_key_in_two_sets_is_one(self, server):
        server.sets.sets[OTHER_JKU] = [public(EC)]

        assert (await server.post(form()))[0] == 200

    async def test_two_keys_of_one_kid_in_two_sets_are_refused(self, server):
        server.sets.sets[OTHER_JKU] = [public(STRANGER)]

        await refused(server, form(), "invalid_client")
        assert (await server.post(form(head_of(jku=JKU))))[0] == 200

    async def test_a_set_that_cannot_be_read_does_not_hide_another(self, server):
        del server.sets.sets[OTHER_JKU]

        assert (await server.post(form()))[0] == 200
        await refused(server, form(signed(RSA)), "invalid_client")
        del server.sets.sets[JKU]
        said = await refused(server, form(body_of(jti="two")), "invalid_client")
        assert "cannot be read" in said

    async def test_all_sets_are_read_at_the_same_time(self, server, monkeypatch):
        """So that several slow servers cost as much time as one."""
        read, asked, all_asked = server.sets.read, [], asyncio.Event()

        async def waiting(url, **options):
            asked.append(url)
            if len(asked) == 2:
                all_asked.set()
            await all_asked.wait()
            return await read(url, **options)

        monkeypatch.setattr(server.sets, "read", waiting)

        assert (await server.post(form()))[0] == 200
        assert asked == [JKU, OTHER_JKU]

    async def test_an_inline_client_has_no_jku(self, server):
        await server.register("inline")
        assertion = signed(head=header(jku=JKU), body=claims("inline"))

        await refused(server, form(assertion), "invalid_client")
