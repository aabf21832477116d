"""Which tokens are let in, and why not the others."""

import base64
import hashlib
import hmac
import json
import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import OctKey

from helios_core import InvalidToken
from helios_keycloak_auth import Algorithm
from helios_keycloak_auth.tokens import LEEWAY_SECONDS, TokenClaims, read_header
from tests.issuers import KEYS, SIGNING, Issuer, key_pair, public, serving, sign

NOW = int(time.time())
FUZZ_RUNS = int(os.environ.get("HFS_TEST_FUZZ_RUNS", "100"))


def encoded(data):
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def with_payload(token, payload):
    header, _, signature = token.split(".")
    return f"{header}.{encoded(payload)}.{signature}"


async def refusal(verifier, token):
    with pytest.raises(InvalidToken) as caught:
        await verifier.verify(token)
    message = str(caught.value)
    assert not [part for part in token.split(".") if len(part) > 10 and part in message]
    return message


@pytest.mark.parametrize("algorithm", SIGNING)
async def test_a_token_of_each_algorithm_is_accepted(verifier, issuer, algorithm):
    principal = await verifier.verify(issuer.token(algorithm))

    assert (principal.issuer, principal.subject) == (issuer.url, "service-account")
    assert (principal.client_id, principal.scopes) == ("client-1", ("system/*.rs",))
    assert principal.tenant is None


@pytest.mark.parametrize(
    ("claims", "client"),
    [
        ({"azp": "a", "client_id": "b"}, "a"),
        ({"azp": None, "client_id": "b"}, "b"),
        ({"azp": None}, "service-account"),
    ],
)
async def test_the_client_is_azp_then_client_id_then_sub(verifier, issuer, claims, client):
    assert (await verifier.verify(issuer.token(**claims))).client_id == client


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "a b  c a"}, ("a", "b", "c")),
        ({"scope": None}, ()),
        ({"scope": ""}, ()),
        ({"scope": "a", "scp": "b c", "roles": ["d", "a"]}, ("a", "b", "c", "d")),
        ({"scope": None, "scp": ["a", "b"]}, ("a", "b")),
        # A word of a list is one word, whatever is in it.
        ({"scope": None, "roles": ["a b"]}, ("a b",)),
        ({"scope": "a\tb\u00a0c"}, ("a\tb\u00a0c",)),
    ],
)
async def test_scopes_are_those_of_three_claims(verifier, issuer, claims, scopes):
    assert (await verifier.verify(issuer.token(**claims))).scopes == scopes


async def test_the_tenant_is_in_the_claim_that_the_settings_name(
    verifier_for, settings, verifier, issuer
):
    claim = "https://clinic.example.org/tenant"
    async with verifier_for(settings(tenant_claim=claim)) as other:
        token = issuer.token(**{claim: "north", "tenant_id": "south"})
        assert (await other.verify(token)).tenant == "north"
        assert (await verifier.verify(token)).tenant == "south"


@pytest.mark.parametrize("tenant", ["", 7, ["north"], {"id": "north"}, True])
async def test_a_tenant_that_is_not_one_text_is_refused(verifier, issuer, tenant):
    assert "tenant" in await refusal(verifier, issuer.token(tenant_id=tenant))


@pytest.mark.parametrize("audience", [["x", Issuer.audience], [Issuer.audience], Issuer.audience])
async def test_the_audience_may_be_one_of_several(verifier, issuer, audience):
    assert await verifier.verify(issuer.token(aud=audience))


async def test_one_of_several_audiences_of_the_settings_is_enough(verifier_for, settings, issuer):
    async with verifier_for(settings(audience=("a", "b"))) as verifier:
        assert await verifier.verify(issuer.token(aud="b"))
        assert "audience" in await refusal(verifier, issuer.token())


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": NOW - 3600}, "expired"),
        ({"exp": 0}, "expired"),
        ({"exp": -1}, "expired"),
        ({"exp": None}, "lacks the claim exp"),
        ({"exp": str(NOW + 60)}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": [NOW + 60]}, "exp"),
        ({"nbf": NOW + 3600}, "not valid yet"),
        ({"nbf": 10**400}, "not valid yet"),
        ({"nbf": "soon"}, "not valid yet"),
        ({"iat": NOW + 3600}, "issued in the future"),
        ({"iss": "https://issuer.example.org"}, "another issuer"),
        ({"iss": None}, "lacks the claim iss"),
        ({"iss": ["x"]}, "another issuer"),
        ({"aud": "https://other.example.org"}, "another audience"),
        ({"aud": [f"{Issuer.audience}/"]}, "another audience"),
        ({"aud": []}, "another audience"),
        ({"aud": None}, "lacks the claim aud"),
        ({"aud": {Issuer.audience: True}}, "another audience"),
        ({"aud": [Issuer.audience, 1]}, "another audience"),
        ({"sub": None}, "lacks the claim sub"),
        ({"sub": ""}, "sub"),
        ({"sub": 7}, "sub"),
        ({"azp": ["client-1"]}, "azp"),
        ({"azp": ""}, "azp"),
        ({"scope": 7}, "scope"),
        ({"scp": {"a": 1}}, "scp"),
        ({"roles": ["a", 1]}, "roles"),
        ({"cnf": {"jkt": "thumbprint"}}, "cnf"),
        ({"typ": "ID"}, "claim typ"),
        ({"typ": "Refresh"}, "claim typ"),
        ({"typ": 1}, "claim typ"),
    ],
)
async def test_a_token_with_wrong_claims_is_refused(verifier, issuer, claims, reason):
    assert reason in await refusal(verifier, issuer.token(**claims))


@pytest.mark.parametrize("exp", [10**12, 10**400, 1e300, 10**10 + 0.5], ids="abcd")
async def test_a_token_may_expire_at_the_end_of_time(verifier, issuer, exp):
    assert (await verifier.verify(issuer.token(exp=exp))).expires_at.tzinfo is not None


@pytest.mark.parametrize("number", ["1e999", "NaN", "Infinity", "9" * 5000])
async def test_a_number_that_is_none_is_refused(verifier, issuer, number):
    payload = json.dumps(issuer.claims(exp=12345)).replace("12345", number).encode()
    token = sign({"alg": "RS256", "kid": "key-RS256"}, payload, issuer.keys["key-RS256"])

    await refusal(verifier, token)


async def test_clocks_may_differ_by_seconds(verifier, issuer):
    now = int(time.time())

    assert await verifier.verify(issuer.token(nbf=now + 4, iat=now + 4))
    # Not closer to the edge, so that a slow machine does not fall over it.
    assert await verifier.verify(issuer.token(exp=now + 1))


@pytest.mark.parametrize(("claim", "reason"), [("nbf", "not valid yet"), ("iat", "in the future")])
async def test_clocks_may_differ_by_no_more(verifier_for, settings, issuer, claim, reason):
    async with verifier_for(settings(), wall_clock=lambda: NOW) as verifier:
        within, beyond = [
            issuer.token(**{"iat": NOW, claim: NOW + ahead})
            for ahead in (LEEWAY_SECONDS, LEEWAY_SECONDS + 1)
        ]
        assert await verifier.verify(within)
        assert reason in await refusal(verifier, beyond)


async def test_a_token_ends_a_few_seconds_after_it_expires(verifier_for, settings, issuer):
    now = [time.time()]
    async with verifier_for(settings(), wall_clock=lambda: now[0]) as verifier:
        token = issuer.token(exp=int(now[0]) + 60)
        principal = await verifier.verify(token)
        now[0] += 62

        # Both that has been seen before and that has not.
        assert await verifier.verify(token) == principal
        assert await verifier.verify(issuer.token(exp=principal.expires_at.timestamp() - 5))
        now[0] += 4
        assert "expired" in await refusal(verifier, token)
        assert "expired" in await refusal(verifier, issuer.token(exp=int(now[0]) - 6))


async def test_a_remembered_token_is_not_one_that_only_begins_like_it(verifier, issuer):
    token = issuer.token()
    await verifier.verify(token)

    header, payload, signature = token.split(".")
    other = "A" if signature[0] != "A" else "B"
    assert "signature" in await refusal(verifier, f"{header}.{payload}.{other}{signature[1:]}")


@pytest.mark.parametrize("algorithm", SIGNING)
async def test_a_wrong_signature_is_refused(verifier, issuer, algorithm):
    token = issuer.token(algorithm)
    assert "signature" in await refusal(verifier, with_payload(token, issuer.claims(azp="x")))
    header, payload, signature = token.split(".")
    assert "signature" in await refusal(verifier, f"{header}.{payload}.{signature[:-4]}")
    assert "signature" in await refusal(verifier, f"{header}.{payload}.{encoded(b'0' * 70)}")


@pytest.mark.parametrize("algorithm", SIGNING)
async def test_a_key_of_somebody_else_under_the_same_id_is_refused(verifier, issuer, algorithm):
    forged = sign(
        {"alg": algorithm, "kid": f"key-{algorithm}"},
        issuer.claims(),
        key_pair(f"forger-{algorithm}", algorithm),
    )

    assert "signature" in await refusal(verifier, forged)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("secret", ["pem", "der", "jwk", "modulus", "empty"])
async def test_a_public_key_is_no_secret(verifier, issuer, algorithm, secret):
    key = issuer.keys["key-RS256"]
    published = public("key-RS256", key)
    secrets = {
        "pem": key.as_pem(private=False),
        "der": key.as_der(private=False),
        "jwk": json.dumps(published).encode(),
        "modulus": published["n"].encode(),
        "empty": b"",
    }
    signing = f"{encoded({'alg': algorithm, 'kid': 'key-RS256'})}.{encoded(issuer.claims())}"
    digest = getattr(hashlib, f"sha{algorithm[2:]}")
    mac = hmac.new(secrets[secret], signing.encode(), digest).digest()

    assert "algorithm" in await refusal(verifier, f"{signing}.{encoded(mac)}")


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "", "RS512", "ES512", "EdDSA", "rs256", "RS1", None, 1]
)
async def test_an_algorithm_that_is_not_allowed_is_refused(verifier, issuer, algorithm):
    header = encoded({"alg": algorithm, "kid": "key-RS256"})

    assert "algorithm" in await refusal(verifier, f"{header}.{encoded(issuer.claims())}.AAAA")
    assert "signed JWT" in await refusal(verifier, f"{header}.{encoded(issuer.claims())}.")


@pytest.mark.parametrize("algorithm", [["RS256"], {"RS256": 1}])
async def test_an_algorithm_that_is_no_text_is_refused(verifier, issuer, algorithm):
    header = encoded({"alg": algorithm, "kid": "key-RS256"})

    assert "algorithm" in await refusal(verifier, f"{header}.{encoded(issuer.claims())}.AAAA")


async def test_only_algorithms_of_the_settings_are_accepted(verifier_for, settings, issuer):
    async with verifier_for(settings(algorithms=("ES384",))) as verifier:
        assert await verifier.verify(issuer.token("ES384"))
        assert "ES384" in await refusal(verifier, issuer.token("RS256"))


@pytest.mark.parametrize(
    ("algorithm", "kid"),
    [
        ("RS256", "key-ES256"),
        ("ES256", "key-RS256"),
        ("ES384", "key-ES256"),
        ("PS256", "key-ES384"),
    ],
)
async def test_a_key_serves_the_algorithms_of_its_type_only(verifier, issuer, algorithm, kid):
    token = issuer.token(algorithm, header={"kid": kid})

    assert "not for its algorithm" in await refusal(verifier, token)


async def test_a_key_that_names_its_algorithm_serves_no_other(verifier, issuer):
    issuer.published = [
        public("key-RS256", issuer.keys["key-RS256"], alg="RS256"),
        public("key-PS256", issuer.keys["key-PS256"]),
    ]

    assert await verifier.verify(issuer.token("RS256"))
    for algorithm in ("RS384", "PS256"):
        header = {"alg": algorithm, "kid": "key-RS256"}
        token = sign(header, issuer.claims(), issuer.keys["key-RS256"])
        assert "not for its algorithm" in await refusal(verifier, token)
    header = {"alg": "RS384", "kid": "key-PS256"}
    assert await verifier.verify(sign(header, issuer.claims(), issuer.keys["key-PS256"]))


@pytest.mark.parametrize("kid", [None, "", 7, ["key-RS256"], {}])
async def test_a_kid_is_required(verifier, issuer, kid):
    header = {"alg": "RS256", **({} if kid is None else {"kid": kid})}
    token = f"{encoded(header)}.{encoded(issuer.claims())}.AAAA"

    assert "no kid" in await refusal(verifier, token)


@pytest.mark.parametrize(
    "kid", ["key-RS256 ", "KEY-RS256", "../key-RS256", "key-RS256\0", "' OR 1=1 --", "x" * 9000]
)
async def test_a_kid_is_a_name_and_nothing_else(verifier, issuer, kid):
    token = issuer.token(header={"kid": kid})

    reason = await refusal(verifier, token)
    assert "does not publish" in reason or ("\0" in kid and "cannot be read" in reason)


async def test_keys_that_the_token_brings_along_are_ignored(verifier, issuer):
    with serving(Issuer()) as forger:
        forger.keys = {"key-RS256": key_pair("forger-RS256")}
        forger.algorithms = {"key-RS256": "RS256"}
        brought = {
            "jku": f"{forger.url.removesuffix('/realm')}{KEYS}",
            "x5u": f"{forger.url}/certificates",
            "jwk": public("key-RS256", forger.keys["key-RS256"]),
        }
        for name, value in brought.items():
            forged = forger.token(header={name: value}, iss=issuer.url)
            assert "signature" in await refusal(verifier, forged)
            assert await verifier.verify(issuer.token(header={name: value}))
        assert not forger.asked


@pytest.mark.parametrize(
    "extra",
    [
        {"crit": ["exp"], "exp": 1},
        {"crit": []},
        {"crit": ["b64"], "b64": False},
        {"crit": "x"},
        {"crit": None},
        {"crit": ["alg"]},
    ],
)
async def test_critical_extensions_are_refused(verifier, issuer, extra):
    header = encoded({"alg": "RS256", "kid": "key-RS256", **extra})

    assert "crit" in await refusal(verifier, f"{header}.{encoded(issuer.claims())}.AAAA")


async def test_a_header_without_meaning_for_us_is_ignored(verifier, issuer):
    assert await verifier.verify(issuer.token(header={"nonce": "x", "rh": [1]}))


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt", None])
async def test_the_type_is_that_of_an_access_token(verifier, issuer, kind):
    assert await verifier.verify(issuer.token(header={"typ": kind}))


@pytest.mark.parametrize("kind", ["logout+jwt", "dpop+jwt", "JOSE", "", 1, ["JWT"]])
async def test_another_type_is_refused(verifier, issuer, kind):
    header = encoded({"alg": "RS256", "kid": "key-RS256", "typ": kind})

    assert "typ" in await refusal(verifier, f"{header}.{encoded(issuer.claims())}.AAAA")


async def test_an_encrypted_token_is_refused(verifier, issuer):
    key = OctKey.generate_key(128)
    text = json.dumps(issuer.claims())
    token = jwe.encrypt_compact({"alg": "dir", "enc": "A128GCM"}, text, key)

    assert "signed JWT" in await refusal(verifier, token)
    assert "signed JWT" in await refusal(
        verifier, jwe.encrypt_compact({"alg": "A128KW", "enc": "A128GCM"}, text, key)
    )


@pytest.mark.parametrize(
    "header",
    [
        b'{"alg":"none","alg":"RS256","kid":"key-RS256"}',
        b'{"alg":"RS256","kid":"x","kid":"key-RS256"}',
        b'{"alg":"RS256","kid":"key-RS256","x":{"a":1,"a":2}}',
        b'{"alg":"RS256","\\u0061lg":"RS256","kid":"key-RS256"}',
    ],
)
async def test_a_header_with_a_name_twice_is_refused(verifier, issuer, header):
    token = f"{encoded(header)}.{encoded(issuer.claims())}.AAAA"

    assert "unique names" in await refusal(verifier, token)


async def test_claims_with_a_name_twice_are_refused(verifier, issuer):
    text = json.dumps(issuer.claims())
    payload = f'{text[:-1]},"scope":"system/*.cruds"}}'.encode()
    token = sign({"alg": "RS256", "kid": "key-RS256"}, payload, issuer.keys["key-RS256"])

    assert "unique names" in await refusal(verifier, token)


@pytest.mark.parametrize("payload", [b"", b"[]", b"7", b"null", b"\xff", b"{", b'"text"'])
async def test_claims_that_are_no_object_are_refused(verifier, issuer, payload):
    token = sign({"alg": "RS256", "kid": "key-RS256"}, payload, issuer.keys["key-RS256"])

    await refusal(verifier, token)


@pytest.mark.parametrize(
    "token",
    [
        *("", ".", "..", "...", "a.b", "a.b.c", "a.b.c.d", "a.b.c.d.e", "basic", "\0", "é.é.é"),
        *("=.=.=", "a b.c.d", "a.b.c\n", "\ud800.a.b", "A" * 100_000, "." * 100_000),
        *("a" * 5 + ".b.c", f"{encoded(b'[' * 5000)}.e30.AA", f"{encoded(b'{}')}.e30.AA"),
        *(
            f"{encoded(b'[]')}.e30.AA",
            f"{encoded(b'null')}.e30.AA",
            f"{encoded(bytes(99))}.e30.AA",
        ),
        '{"payload":"e30","signatures":[]}',
    ],
    ids=lambda token: ascii(token[:16]),
)
async def test_what_is_no_token_is_refused(verifier, issuer, token):
    await refusal(verifier, token)

    assert not issuer.asked


async def test_a_token_deeper_than_the_stack_is_refused(verifier, issuer):
    payload = b'{"a":' * 1500 + b"1" + b"}" * 1500
    token = sign({"alg": "RS256", "kid": "key-RS256"}, payload, issuer.keys["key-RS256"])

    await refusal(verifier, token)


async def test_a_token_of_16_kib_is_the_longest(verifier, issuer):
    assert await verifier.verify(issuer.token(scope="x " * 5000))
    assert "16384" in await refusal(verifier, issuer.token(scope="x " * 6500))


async def test_padding_and_other_alphabets_are_refused(verifier, issuer):
    header, payload, signature = issuer.token().split(".")

    assert await verifier.verify(f"{header}.{payload}.{signature}")
    for wrong in (f"{header}.{payload}.{signature}==", f"{header}.{payload}.{signature}+"):
        assert "signed JWT" in await refusal(verifier, wrong)


async def test_another_spelling_of_the_same_bytes_is_refused(verifier, issuer):
    token = issuer.token("ES384", kid_pad="x")
    header, payload, signature = issuer.token("RS256").split(".")
    assert len(signature) % 4 == 2  # 256 bytes leave four bits of the last letter unused
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = letters[letters.index(signature[-1]) + 1]

    assert "signature" in await refusal(verifier, f"{header}.{payload}.{signature[:-1]}{other}")
    assert await verifier.verify(token)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NAMES = ("iss", "sub", "aud", "exp", "nbf", "iat", "azp", "scope", "scp", "roles", "typ", "cnf")
"""Claims that are looked at."""


@pytest.fixture(scope="module")
def untouched_issuer():
    with serving(Issuer()) as issuer:
        yield issuer


@settings(max_examples=FUZZ_RUNS, suppress_health_check=list(HealthCheck))
@given(
    header=st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jku"]), ANYTHING),
    claims=st.dictionaries(st.sampled_from([*NAMES, "tenant_id"]), ANYTHING),
    junk=st.text(),
)
def test_whatever_a_token_says_it_is_accepted_or_refused(untouched_issuer, header, claims, junk):
    issuer = untouched_issuer
    tokens = [
        # What the issuer could sign, and what anybody could send.
        issuer.token(**claims) if None not in claims.values() else junk,
        f"{encoded(header)}.{encoded(claims)}.AAAA",
        f"{encoded(junk.encode(errors='replace'))}.{encoded(claims)}.AAAA",
        junk,
    ]
    claimed = TokenClaims(
        issuer=issuer.url, audience=(issuer.audience,), tenant_claim="tenant_id", clock=time.time
    )
    for token in tokens:
        try:
            read = read_header(token, frozenset(Algorithm))
            key = issuer.keys["key-RS256"]
            principal = claimed.verify(token, read, key)
        except InvalidToken:
            continue
        assert isinstance(principal.client_id, str)
        assert all(isinstance(scope, str) for scope in principal.scopes)
