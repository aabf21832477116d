"""Token verifiers that are wrong on purpose."""

import asyncio

import pytest
from msgspec.structs import replace

from helios_core import (
    API_LEVEL,
    InvalidToken,
    TokenVerifierExtension,
)
from tests.testing import extensions
from tests.testing.extensions import READER, opening
from tests.tokens import StaticVerifier, principal


class TestOpensNothing(extensions.GoodTokenVerifier):
    caught_by = ("test_the_server_takes_the_verifier",)

    @pytest.fixture
    def extension(self):
        return TokenVerifierExtension(api_level=API_LEVEL, open=opening("nobody"))


class Credulous(StaticVerifier):
    """Looks at neither the end of a token nor whether anybody issued it."""

    async def verify(self, token):
        return self.principals.get(token) or self.principals[READER]


class TestCredulous(extensions.GoodTokenVerifier):
    implementation = Credulous
    caught_by = (
        "test_invalid_tokens_are_refused",
        "test_an_issuer_that_is_down_makes_no_token_invalid",
        "test_a_changed_token_is_refused",
        "test_whatever_is_sent_is_refused_in_time",
    )


class Pessimist(StaticVerifier):
    """Takes an issuer that is down for one that says no."""

    async def verify(self, token):
        if not self.up:
            raise InvalidToken("Nobody vouches for the token.")
        return await super().verify(token)


class TestPessimist(extensions.GoodTokenVerifier):
    implementation = Pessimist
    caught_by = ("test_an_issuer_that_is_down_makes_no_token_invalid",)


class Generous(StaticVerifier):
    """Grants more than the token says."""

    async def verify(self, token):
        found = await super().verify(token)
        return replace(found, scopes=(*found.scopes, "system/*.cruds"))


class TestGenerous(extensions.GoodTokenVerifier):
    implementation = Generous
    caught_by = ("test_the_principal_is_what_the_token_says",)


class Shortened(StaticVerifier):
    """Compares the beginnings of tokens only."""

    async def verify(self, token):
        return await super().verify(READER if token.startswith(READER[:10]) else token)


class TestShortened(extensions.GoodTokenVerifier):
    implementation = Shortened
    caught_by = (
        "test_invalid_tokens_are_refused",
        "test_a_changed_token_is_refused",
    )


class Confused(StaticVerifier):
    """Mixes the requests up that wait at the same time."""

    latest = None

    async def verify(self, token):
        number = self.asked
        found = await super().verify(token)
        await asyncio.sleep(0)
        if self.asked > number + 1:
            return principal("somebody else")
        return found


class TestConfused(extensions.GoodTokenVerifier):
    implementation = Confused
    caught_by = ("test_many_tokens_at_once_are_verified",)


class Fragile(StaticVerifier):
    """Breaks at what it does not know how to encode."""

    async def verify(self, token):
        token.encode("ascii")
        return await super().verify(token)


class TestFragile(extensions.GoodTokenVerifier):
    implementation = Fragile
    caught_by = ("test_whatever_is_sent_is_refused_in_time",)


class Talkative(StaticVerifier):
    """Quotes the token that it refuses."""

    async def verify(self, token):
        try:
            return await super().verify(token)
        except InvalidToken as error:
            raise InvalidToken(f"The token {token} is not on the list.") from error


class TestTalkative(extensions.GoodTokenVerifier):
    implementation = Talkative
    caught_by = ("test_no_token_is_shown",)


class Placeless(StaticVerifier):
    """Names the token endpoint relative to whatever."""

    async def smart_configuration(self, base):
        return await super().smart_configuration(base) | {"token_endpoint": "/token"}


class TestPlaceless(extensions.GoodTokenVerifier):
    implementation = Placeless
    caught_by = ("test_clients_learn_where_they_get_tokens",)
