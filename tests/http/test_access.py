"""Who gets in: the token of every request is verified before anything else happens."""

import asyncio
from datetime import timedelta

import httpx
import pytest

from helios_core import BackendError, InvalidToken
from helios_core.storage.token_verifier import ContainedVerifier
from tests.tokens import StaticVerifier, bearer, principal

TOKEN = "token-of-somebody"
LIMIT = timedelta(seconds=5)


@pytest.fixture
def verifier():
    return StaticVerifier({TOKEN: principal("somebody", "system/*.cruds")})


@pytest.fixture
async def guarded(open_site, verifier):
    return await open_site(token_verifier=verifier)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer "}, {"Authorization": ""}])
async def test_no_credential_is_answered_with_a_challenge_without_an_error(guarded, headers):
    response = await guarded.client.get("/Patient/p", headers=headers)

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["issue"][0]["code"] == "login"


@pytest.mark.parametrize(
    "value", ["Bearer nobody", "Basic dTpw", "bearer nobody", "nobody", f"Bearer {TOKEN} {TOKEN}"]
)
async def test_a_token_that_is_not_valid_is_answered_with_the_class_of_the_reason(guarded, value):
    response = await guarded.client.get("/Patient/p", headers={"Authorization": value})

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert "nobody" not in response.text


async def test_two_tokens_are_refused(guarded):
    headers = httpx.Headers([("Authorization", f"Bearer {TOKEN}")] * 2)

    assert (await guarded.client.get("/Patient/p", headers=headers)).status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_compared_without_case(guarded, scheme):
    headers = {"Authorization": f"{scheme} {TOKEN}"}

    assert (await guarded.client.get("/Patient/p", headers=headers)).status_code == 404


async def test_an_issuer_that_is_down_is_no_fault_of_the_token(guarded, verifier):
    verifier.up = False

    response = await guarded.client.get("/Patient/p", headers=bearer(TOKEN))

    assert response.status_code == 503
    assert "www-authenticate" not in response.headers


@pytest.mark.parametrize("path", ["/metadata", "/_liveness", "/health", "/_readiness"])
async def test_what_is_public_looks_at_no_token(guarded, verifier, path):
    verifier.up = False

    assert (await guarded.client.get(path, headers=bearer("x"))).status_code == 200
    assert verifier.asked == 0


@pytest.mark.parametrize("path", ["/Patient", "/Nothing", "/", "/Patient/_search"])
async def test_nothing_else_is_said_of_a_request_without_a_token(guarded, path):
    headers = {"Accept": "text/html", "X-Tenant-ID": "..", "Content-Type": "x/y"}

    response = await guarded.client.post(path, content=b"{", headers=headers)

    assert response.status_code == 401


class Broken(StaticVerifier):
    def __init__(self, how):
        super().__init__({})
        self.how = how

    async def verify(self, token):
        if isinstance(self.how, BaseException):
            raise self.how
        return self.how


@pytest.mark.parametrize(
    "how",
    [SystemExit(), KeyError("x"), GeneratorExit(), None, "admin", TimeoutError(), StopIteration()],
    ids=repr,
)
async def test_a_broken_verifier_lets_nobody_in(open_site, how):
    contained = ContainedVerifier(Broken(how), time_limit=LIMIT)
    site = await open_site(token_verifier=contained)

    response = await site.client.get("/Patient/p", headers=bearer(TOKEN))

    assert response.status_code in (500, 503)
    assert TOKEN not in response.text


async def test_a_principal_that_has_expired_is_refused_whatever_the_verifier_says():
    outdated = principal("x", valid_for=timedelta(seconds=-1))
    contained = ContainedVerifier(Broken(outdated), time_limit=LIMIT)

    with pytest.raises(InvalidToken):
        await contained.verify("x")


async def test_a_verifier_that_hangs_is_late_and_not_waited_for():
    class Hanging(StaticVerifier):
        async def verify(self, token):
            await asyncio.Event().wait()

    contained = ContainedVerifier(Hanging({}), time_limit=timedelta(milliseconds=10))

    with pytest.raises(BackendError):
        await contained.verify("x")
