"""How the issuer's keys are read, kept and read again, whatever the issuer does."""

import asyncio
import ssl
from datetime import timedelta

import pytest
import trustme
from structlog.testing import capture_logs

from helios_core import BackendUnavailable, InvalidToken
from helios_keycloak_auth.keys import MAX_REMEMBERED, RSA_BITS
from helios_keycloak_auth.requests import MAX_BYTES, issuer_requests
from tests.issuers import DISCOVERY, KEYS, Issuer, key_pair, public, serving, sign

MINUTE = timedelta(minutes=1)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)


async def outcomes(*calls):
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_keys_are_read_once_for_all_who_wait(verifier, issuer):
    issuer.may_answer.clear()
    calls = [asyncio.create_task(verifier.verify(issuer.token())) for _ in range(50)]
    await until(lambda: issuer.asked)
    issuer.may_answer.set()

    assert len(set(await asyncio.gather(*calls))) == 1
    assert dict(issuer.asked) == {DISCOVERY: 1, KEYS: 1}


async def test_a_caller_that_leaves_does_not_end_the_read_of_the_others(verifier, issuer):
    issuer.may_answer.clear()
    first, second = (asyncio.create_task(verifier.verify(issuer.token())) for _ in range(2))
    await until(lambda: issuer.asked)
    first.cancel()
    await asyncio.wait([first])
    issuer.may_answer.set()

    assert await second
    assert issuer.asked[KEYS] == 1


async def test_the_address_of_the_settings_goes_before_the_discovery_document(
    verifier_for, settings, issuer
):
    url = issuer.url.removesuffix("/realm") + KEYS
    async with verifier_for(settings(jwks_url=url)) as verifier:
        assert await verifier.verify(issuer.token())

    assert dict(issuer.asked) == {KEYS: 1}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Cache-Control": "max-age=60"}, 60),
        ({"Cache-Control": "public, Max-Age=60, must-revalidate"}, 60),
        ({"Cache-Control": 'private,max-age="60"'}, 60),
        ({"Cache-Control": "max-age=90", "Age": "30"}, 60),
        ({}, 300),
        ({"Cache-Control": "public"}, 300),
        ({"Cache-Control": "x-max-age=7"}, 300),
        ({"Cache-Control": "max-age=soon"}, 300),
        ({"Cache-Control": "max-age=9999999999"}, 86400),
        # Not more often than every ten seconds, whatever the issuer says.
        ({"Cache-Control": "no-store"}, 10),
        ({"Cache-Control": "no-cache, max-age=60"}, 10),
        ({"Cache-Control": "max-age=0"}, 10),
        ({"Cache-Control": "max-age=60", "Age": "90"}, 10),
    ],
)
async def test_keys_are_kept_for_as_long_as_the_issuer_says(
    verifier, issuer, clock, headers, seconds
):
    issuer.headers = headers
    await verifier.verify(issuer.token())

    clock.advance(seconds - 0.5)
    await verifier.verify(issuer.token())
    assert issuer.asked[KEYS] == 1
    clock.advance(1)
    await verifier.verify(issuer.token())
    assert issuer.asked[KEYS] == 2


async def test_a_new_key_of_the_issuer_is_read_at_once(verifier, issuer):
    await verifier.verify(issuer.token())
    issuer.rotate("second")

    assert await verifier.verify(issuer.token())
    assert issuer.asked[KEYS] == 2


async def test_a_key_that_the_issuer_withdraws_is_refused_once_the_keys_have_aged(
    verifier, issuer, clock
):
    old = issuer.token()
    await verifier.verify(old)
    issuer.rotate("second")
    assert await verifier.verify(old)

    clock.advance(301)
    with pytest.raises(InvalidToken, match="does not publish"):
        await verifier.verify(old)


async def test_a_key_replaced_under_its_id_does_not_vouch_for_what_the_old_one_signed(
    verifier, issuer, clock
):
    old = issuer.token()
    await verifier.verify(old)
    issuer.keys["key-RS256"] = key_pair("another")

    clock.advance(301)
    with pytest.raises(InvalidToken, match="signature"):
        await verifier.verify(old)
    assert await verifier.verify(issuer.token())


async def test_a_flood_of_unknown_keys_reads_the_keys_once_an_interval(verifier, issuer, clock):
    await verifier.verify(issuer.token())
    for interval in range(1, 4):
        flood = [
            verifier.verify(issuer.token("ES256", header={"kid": f"unknown-{number}"}))
            for number in range(100)
        ]
        refused = await outcomes(*flood, verifier.verify(issuer.token()))
        assert {type(each) for each in refused[:-1]} == {InvalidToken}
        assert not isinstance(refused[-1], Exception)
        assert issuer.asked[KEYS] == 1 + interval
        clock.advance(10)


async def test_an_unknown_key_is_looked_for_although_the_keys_were_read_a_moment_ago(
    verifier, issuer, clock
):
    issuer.headers = {"Cache-Control": "no-cache"}
    await verifier.verify(issuer.token())
    clock.advance(11)
    await verifier.verify(issuer.token())
    assert issuer.asked[KEYS] == 2

    issuer.rotate("second")
    assert await verifier.verify(issuer.token())


async def test_the_interval_is_a_setting(verifier_for, settings, issuer, clock):
    unknown = issuer.token(header={"kid": "unknown"})
    async with verifier_for(settings(jwks_min_refresh_interval=MINUTE)) as verifier:
        for seconds, reads in [(0, 2), (59, 2), (2, 3)]:
            clock.advance(seconds)
            with pytest.raises(InvalidToken):
                await verifier.verify(unknown)
            assert issuer.asked[KEYS] == reads


async def test_keys_stay_in_use_while_the_issuer_is_down(verifier_for, settings, clock):
    issuer = Issuer()
    with serving(issuer):
        chosen = {"issuer": issuer.url, "jwks_max_stale": timedelta(hours=2)}
        token = issuer.token()
        async with verifier_for(settings(**chosen)) as verifier:
            await verifier.verify(token)
            issuer.answers = {DISCOVERY: (503, b""), KEYS: (503, b"")}
            with capture_logs() as logs:
                for seconds in (301, 3600, 3595):
                    clock.advance(seconds)
                    assert await verifier.verify(token)
                    with pytest.raises(BackendUnavailable):
                        await verifier.verify(issuer.token(header={"kid": "unknown"}))
                clock.advance(10)
                with pytest.raises(BackendUnavailable):
                    await verifier.verify(token)
            assert [each["event"] for each in logs] == ["issuer.unavailable"] * 2

            issuer.answers = {}
            clock.advance(10)
            with capture_logs() as logs:
                assert await verifier.verify(token)
            assert [each["event"] for each in logs] == ["issuer.recovered"] * 2


async def test_an_issuer_that_was_never_reached_is_unavailable_and_not_the_token_invalid(
    verifier, issuer, clock
):
    token = issuer.token()
    issuer.answers = {KEYS: (500, b"")}

    for _ in range(3):
        with pytest.raises(BackendUnavailable, match="500"):
            await verifier.verify(token)
    assert issuer.asked[KEYS] == 1

    issuer.answers = {}
    clock.advance(10)
    assert await verifier.verify(token)


async def test_nothing_that_listens_is_unavailable(verifier_for, settings, issuer):
    with serving(Issuer()) as other:
        url = other.url
    async with verifier_for(settings(issuer=url)) as verifier:
        with pytest.raises(BackendUnavailable, match="ConnectError"):
            await verifier.verify(issuer.token())


async def test_who_has_a_known_key_does_not_wait_for_an_issuer_that_is_known_to_be_down(
    verifier, issuer, clock
):
    token = issuer.token()
    await verifier.verify(token)
    issuer.answers = {KEYS: (500, b"")}
    clock.advance(301)
    await verifier.verify(token)

    issuer.may_answer.clear()
    clock.advance(10)
    asked = issuer.asked.total()
    assert await verifier.verify(token)
    await until(lambda: issuer.asked.total() == asked + 1)
    assert await verifier.verify(token)


async def test_who_has_a_known_key_does_not_wait_for_a_read_that_others_force(verifier, issuer):
    await verifier.verify(issuer.token())
    issuer.may_answer.clear()
    forcing = asyncio.create_task(verifier.verify(issuer.token(header={"kid": "unknown"})))
    await until(lambda: issuer.asked[KEYS] == 2)

    assert await verifier.verify(issuer.token())
    assert not forcing.done()
    issuer.may_answer.set()
    assert isinstance((await outcomes(forcing))[0], InvalidToken)


async def test_an_issuer_that_hangs_is_waited_for_no_longer_than_the_setting(
    verifier_for, settings, issuer
):
    issuer.may_answer.clear()
    async with verifier_for(settings(request_timeout=timedelta(milliseconds=50))) as verifier:
        with pytest.raises(BackendUnavailable, match=r"did not respond within|Timeout"):
            await verifier.verify(issuer.token())


async def test_closing_does_not_wait_for_the_issuer(verifier_for, settings, issuer):
    issuer.may_answer.clear()
    async with verifier_for(settings()) as verifier:
        waiting = asyncio.create_task(verifier.verify(issuer.token()))
        await until(lambda: issuer.asked)

    await asyncio.wait([waiting])
    assert waiting.cancelled()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, b"{" + b" " * MAX_BYTES), "more than"),
        ((200, b"no json"), "JSON"),
        ((200, b'{"keys":[],"keys":[]}'), "unique names"),
        ((200, b"[" * 100_000), "JSON"),
        ((200, b"[]"), "JSON object"),
        ((200, b"{}"), "JWK Set"),
        ((200, b'{"keys":{}}'), "JWK Set"),
        ((200, b"\xff"), "JSON"),
        ((200, b""), "JSON"),
        ((404, b"{}"), "404"),
        ((302, b"{}"), "302"),
        ((204, b""), "204"),
    ],
)
async def test_what_is_no_jwk_set_is_an_unavailable_issuer(verifier, issuer, answer, reason):
    issuer.answers = {KEYS: answer}

    with pytest.raises(BackendUnavailable, match=reason):
        await verifier.verify(issuer.token())


async def test_the_certificate_of_the_issuer_is_verified(
    verifier_for, settings, monkeypatch, tmp_path
):
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with serving(Issuer(), tls) as issuer:
        chosen = settings(issuer=issuer.url, allow_http=False)
        async with verifier_for(chosen) as verifier:
            with pytest.raises(BackendUnavailable, match="ConnectError"):
                await verifier.verify(issuer.token())

        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        async with verifier_for(chosen) as verifier:
            assert await verifier.verify(issuer.token())


async def test_an_address_without_tls_is_not_asked(issuer, settings):
    async with issuer_requests(settings().request_timeout, allow_http=False) as requests:
        with pytest.raises(BackendUnavailable, match="without https"):
            await requests.read(issuer.url)

    assert not issuer.asked


async def test_redirects_are_not_followed(verifier, issuer):
    with serving(Issuer()) as other:
        issuer.headers = {"Location": other.url}
        issuer.answers = {KEYS: (302, b"")}
        with pytest.raises(BackendUnavailable):
            await verifier.verify(issuer.token())

        assert not other.asked


async def test_compressed_documents_are_refused(verifier, issuer):
    issuer.headers = {"Content-Encoding": "gzip"}

    with pytest.raises(BackendUnavailable, match="compressed"):
        await verifier.verify(issuer.token())


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://issuer.example.org"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": "/realm/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": ["http://127.0.0.1/"]},
        {"jwks_uri": "http://user@127.0.0.1/"},
    ],
)
async def test_a_discovery_document_that_is_wrong_is_an_unavailable_issuer(
    verifier, issuer, changes
):
    issuer.discovery = changes

    with pytest.raises(BackendUnavailable, match="discovery document"):
        await verifier.verify(issuer.token())
    assert not issuer.asked[KEYS]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:99999/", "http://xn--/", "http://[::1/", "http://\ud800/", "http://*"],
)
async def test_an_address_that_cannot_be_asked_is_an_unavailable_issuer(verifier, issuer, url):
    issuer.discovery = {"jwks_uri": url}

    with pytest.raises(BackendUnavailable, match=r"request to the issuer failed|cannot be read"):
        await verifier.verify(issuer.token())


async def test_an_issuer_with_a_slash_at_its_end_is_discovered_below_it(
    verifier_for, settings, issuer
):
    slash = f"{issuer.url}/"
    issuer.discovery = {"issuer": slash}
    async with verifier_for(settings(issuer=slash)) as verifier:
        assert await verifier.verify(issuer.token(iss=slash))
        with pytest.raises(InvalidToken, match="issuer"):
            await verifier.verify(issuer.token())


def without(key, *names):
    return {name: value for name, value in key.items() if name not in names}


def unusable_keys():
    rsa, ec = key_pair("key-RS256"), key_pair("key-ES256", "ES256")
    usable, other = public("kid", rsa), public("kid", ec)
    short = "x" * (RSA_BITS[0] // 6 - 2)
    return {
        "for encryption": {**usable, "use": "enc"},
        "not for verifying": {**usable, "key_ops": ["sign"]},
        "operations that are no list": {**usable, "key_ops": "verify"},
        "another algorithm": {**usable, "alg": "RS512"},
        "an algorithm of encryption": {**usable, "alg": "RSA-OAEP"},
        "a private key": {**rsa.as_dict(private=True), "kid": "kid"},
        "a secret": {"kty": "oct", "kid": "kid", "k": "AAAA"},
        "without an id": without(usable, "kid"),
        "with an id that is no text": {**usable, "kid": 1},
        "without a type": without(usable, "kty"),
        "of a type that is unknown": {**usable, "kty": "LWE"},
        "of another curve": {**other, "crv": "P-521"},
        "with a point that is not on its curve": {**other, "x": other["y"]},
        "short": {**usable, "n": short},
        "long": {**usable, "n": "x" * 2000},
        "with a long exponent": {**usable, "e": "x" * 300},
        "with an even exponent": {**usable, "e": "AQAA"},
        "with an exponent of one": {**usable, "e": "AQ"},
        "without a modulus": without(usable, "n"),
        "with a modulus that is a number": {**usable, "n": 7},
        "with a modulus that is not base64": {**usable, "n": "é" * 400},
        "no object": "kid",
        "nothing": None,
    }


@pytest.mark.parametrize("kind", unusable_keys())
async def test_a_key_that_is_unfit_is_left_out_and_the_others_are_used(verifier, issuer, kind):
    published = public("key-ES384", issuer.keys["key-ES384"])
    issuer.published = [unusable_keys()[kind], published]

    assert await verifier.verify(issuer.token("ES384"))
    forged = sign({"alg": "RS256", "kid": "kid"}, issuer.claims(), issuer.keys["key-RS256"])
    with pytest.raises(InvalidToken, match="does not publish"):
        await verifier.verify(forged)


async def test_keys_of_one_id_are_told_apart_by_their_algorithm(verifier, issuer):
    issuer.published = [
        public("key-ES256", issuer.keys["key-ES256"]),
        public("key-ES256", issuer.keys["key-RS256"]),
    ]

    assert await verifier.verify(issuer.token("ES256"))
    header = {"alg": "RS256", "kid": "key-ES256"}
    assert await verifier.verify(sign(header, issuer.claims(), issuer.keys["key-RS256"]))


async def test_of_two_keys_with_one_id_and_algorithm_none_is_used(verifier, issuer):
    issuer.published = [
        public("key-RS256", issuer.keys["key-RS256"]),
        public("key-RS256", key_pair("another")),
        public("key-ES256", issuer.keys["key-ES256"]),
    ]

    assert await verifier.verify(issuer.token("ES256"))
    with pytest.raises(InvalidToken, match="does not publish"):
        await verifier.verify(issuer.token("RS256"))


async def test_a_thousand_keys_are_not_all_read(verifier, issuer):
    first, last = issuer.keys["key-ES256"], issuer.keys["key-ES384"]
    others = [public(f"other-{number}", first) for number in range(200)]
    issuer.published = [public("key-ES256", first), *others, public("key-ES384", last)]

    assert await verifier.verify(issuer.token("ES256"))
    with pytest.raises(InvalidToken, match="does not publish"):
        await verifier.verify(issuer.token("ES384"))


async def test_only_so_many_tokens_are_remembered(verifier, issuer, monkeypatch):
    monkeypatch.setattr("helios_keycloak_auth.keys.MAX_REMEMBERED", 3)
    for number in range(10):
        await verifier.verify(issuer.token("ES256", jti=str(number)))

    keys = await verifier._keys.current()
    assert len(keys._remembered) == 3 < MAX_REMEMBERED


async def test_the_same_keys_read_again_remember_their_tokens(verifier, issuer, clock):
    await verifier.verify(issuer.token())
    before = await verifier._keys.current()
    clock.advance(301)
    await verifier.verify(issuer.token())

    assert issuer.asked[KEYS] == 2
    assert await verifier._keys.current() is before


async def test_logs_name_how_many_keys_there_are_and_nothing_of_a_token(verifier, issuer):
    token = issuer.token(tenant_id="north-clinic")
    with capture_logs() as logs:
        await verifier.verify(token)
        await outcomes(
            verifier.verify(token + "A"),
            verifier.verify(issuer.token(header={"kid": "unknown"}, tenant_id="north-clinic")),
        )

    assert [each["event"] for each in logs] == ["issuer.keys_read"]
    assert logs[0]["keys"] == 5
    text = str(logs)
    assert not [part for part in [*token.split("."), "north-clinic", "client-1"] if part in text]
