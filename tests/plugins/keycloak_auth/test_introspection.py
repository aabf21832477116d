"""Tokens that have been revoked are refused where the issuer is asked."""

import asyncio
import base64
from datetime import timedelta

import pytest

from helios_core import BackendUnavailable, InvalidToken, Secret
from tests.issuers import INTROSPECTION


@pytest.fixture
async def asking(verifier_for, settings):
    chosen = settings(
        introspection_client_id="resource-server", introspection_client_secret=Secret("hidden")
    )
    async with verifier_for(chosen) as verifier:
        yield verifier


async def test_a_revoked_token_is_accepted_for_seconds_at_most(asking, issuer, clock):
    token = issuer.token()
    await asking.verify(token)
    issuer.inactive = {token}

    clock.advance(9)
    assert await asking.verify(token)
    assert issuer.asked[INTROSPECTION] == 1
    clock.advance(2)
    with pytest.raises(InvalidToken, match="revoked"):
        await asking.verify(token)
    with pytest.raises(InvalidToken, match="revoked"):
        await asking.verify(token)
    assert issuer.asked[INTROSPECTION] == 2


async def test_the_issuer_is_asked_as_the_client_of_the_settings(asking, issuer):
    await asking.verify(issuer.token())

    assert issuer.credentials == [f"Basic {base64.b64encode(b'resource-server:hidden').decode()}"]


async def test_credentials_are_encoded_before_they_are_joined(verifier_for, settings, issuer):
    """RFC 6749, section 2.3.1."""
    chosen = settings(
        introspection_client_id="https://fhir.example", introspection_client_secret=Secret("a+ä:%")
    )
    async with verifier_for(chosen) as verifier:
        await verifier.verify(issuer.token())

    joined = b"https%3A%2F%2Ffhir.example:a%2B%C3%A4%3A%25"
    assert issuer.credentials == [f"Basic {base64.b64encode(joined).decode()}"]


async def test_the_issuer_is_asked_once_for_all_who_wait(asking, issuer):
    token = issuer.token()
    await asking.verify(issuer.token(jti="another"))
    issuer.may_answer.clear()
    calls = [asyncio.create_task(asking.verify(token)) for _ in range(20)]
    while issuer.asked[INTROSPECTION] < 2:
        await asyncio.sleep(0.01)
    issuer.may_answer.set()

    await asyncio.gather(*calls)
    assert issuer.asked[INTROSPECTION] == 2


async def test_only_tokens_whose_signature_is_right_are_asked_about(asking, issuer):
    for token in ("junk", issuer.token(exp=1), issuer.token() + "A", issuer.token(aud="x")):
        with pytest.raises(InvalidToken):
            await asking.verify(token)

    assert not issuer.asked[INTROSPECTION]


@pytest.mark.parametrize(
    "answer",
    [
        (500, b"{}"),
        (401, b"{}"),
        (200, b"{}"),
        (200, b'{"active":"true"}'),
        (200, b'{"active":1}'),
        (200, b'{"active":false,"active":true}'),
        (200, b"active"),
    ],
)
async def test_an_issuer_that_does_not_say_lets_nobody_in(asking, issuer, clock, answer):
    token = issuer.token()
    await asking.verify(token)
    issuer.answers = {INTROSPECTION: answer}
    clock.advance(11)

    with pytest.raises(BackendUnavailable, match="introspected"):
        await asking.verify(token)
    issuer.answers = {}
    assert await asking.verify(token)


async def test_an_issuer_without_introspection_lets_nobody_in(asking, issuer):
    issuer.discovery = {"introspection_endpoint": None}

    with pytest.raises(BackendUnavailable, match="introspection_endpoint"):
        await asking.verify(issuer.token())


async def test_the_address_of_the_settings_is_asked(verifier_for, settings, issuer):
    issuer.discovery = {"introspection_endpoint": None}
    chosen = settings(
        introspection_client_id="resource-server",
        introspection_client_secret=Secret("hidden"),
        introspection_url=issuer.url.removesuffix("/realm") + INTROSPECTION,
        introspection_ttl=timedelta(seconds=60),
    )
    async with verifier_for(chosen) as verifier:
        assert await verifier.verify(issuer.token())

    assert issuer.asked[INTROSPECTION] == 1


async def test_no_more_than_so_many_tokens_wait_and_are_remembered(asking, issuer, monkeypatch):
    monkeypatch.setattr("helios_keycloak_auth.introspection.MAX_WAITING", 2)
    monkeypatch.setattr("helios_keycloak_auth.introspection.MAX_REMEMBERED", 1)
    await asking.verify(issuer.token())
    issuer.may_answer.clear()
    tokens = [issuer.token(jti=str(number)) for number in range(3)]
    calls = [asyncio.create_task(asking.verify(token)) for token in tokens]
    done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    issuer.may_answer.set()

    assert [type(call.exception()) for call in done] == [BackendUnavailable]
    await asyncio.gather(*waiting)
    assert len(asking._introspection._results) == 1


async def test_closing_does_not_wait_for_the_answer(verifier_for, settings, issuer):
    chosen = settings(
        introspection_client_id="resource-server", introspection_client_secret=Secret("hidden")
    )
    async with verifier_for(chosen) as verifier:
        await verifier.verify(issuer.token())
        issuer.may_answer.clear()
        waiting = asyncio.create_task(verifier.verify(issuer.token(jti="2")))
        while issuer.asked[INTROSPECTION] < 2:
            await asyncio.sleep(0.01)

    await asyncio.wait([waiting])
    assert waiting.cancelled()
