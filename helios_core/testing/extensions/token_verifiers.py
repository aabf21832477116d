"""The contract suite of token verifiers: clauses V1 to V4 of `TokenVerifier`."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from helios_core import (
    Backends,
    BackendUnavailable,
    InvalidToken,
    Principal,
    TokenVerifier,
    TokenVerifierExtension,
)
from helios_core.config.extensions import SelectedExtension, open_token_verifier
from helios_core.storage.isolation import call_within
from helios_core.testing.extensions.contract import ExtensionSuite

BASE = "https://fhir.example/base"
PART_LENGTH = 12
"""How many characters in a row are considered a part of a token."""


class TokenVerifierSuite(ExtensionSuite):
    """
    Tests that every verifier of access tokens passes.

    A subclass implements the fixture `extension`, its `settings`, and the four methods below. By
    the time `subject` is opened, the issuer must be running.
    """

    hook = "helios_token_verifier"

    async def valid_token(self) -> str:
        """Return a token that is valid for at least as long as a test may run."""
        raise NotImplementedError(f"{type(self).__name__} needs `valid_token`")

    def principal(self) -> Principal:
        """Return the principal of that token; its `expires_at` is not compared."""
        raise NotImplementedError(f"{type(self).__name__} needs `principal`")

    async def invalid_tokens(self) -> Mapping[str, str]:
        """
        Return tokens that are each wrong in one way, by the name of that way.

        For signed tokens these must include one that is expired, one that is not valid yet, and
        one each of another issuer, for another audience and signed with another key.
        """
        raise NotImplementedError(f"{type(self).__name__} needs `invalid_tokens`")

    async def make_unavailable(self) -> str:
        """Cut the verifier off from its issuer, and return a token that needs the issuer now."""
        raise NotImplementedError(f"{type(self).__name__} needs `make_unavailable`")

    @pytest.fixture
    async def subject(
        self, extension: TokenVerifierExtension, selected: SelectedExtension, backends: Backends
    ) -> AsyncIterator[TokenVerifier]:
        """Open the verifier."""
        async with extension.open(selected.settings, backends) as verifier:
            yield verifier

    async def test_the_server_takes_the_verifier(
        self, selected: SelectedExtension, backends: Backends, stack: AsyncExitStack
    ) -> None:
        """It opens, and is a TokenVerifier."""
        assert await open_token_verifier(stack, selected, backends) is not None

    async def test_invalid_tokens_are_refused(
        self, subject: TokenVerifier, extension: TokenVerifierExtension
    ) -> None:
        """V1: all those that the subclass returns."""
        invalid = await self.invalid_tokens()
        assert invalid, "there is no invalid token to test with"
        for name, token in invalid.items():
            assert await _refused(subject, extension, token), f"accepted: {name}"

    async def test_an_issuer_that_is_down_makes_no_token_invalid(
        self, subject: TokenVerifier, extension: TokenVerifierExtension
    ) -> None:
        """V1: otherwise clients would discard their tokens."""
        token = await self.make_unavailable()

        with pytest.raises(BackendUnavailable):
            await call_within(extension.time_limit, subject.verify, token)

    async def test_the_principal_is_what_the_token_says(self, subject: TokenVerifier) -> None:
        """V2: issuer, subject, client, scopes and tenant, and an expiry in the future."""
        found, expected = await subject.verify(await self.valid_token()), self.principal()

        assert _identity(found) == _identity(expected)
        assert found.scopes == expected.scopes
        assert found.tenant == expected.tenant
        assert found.expires_at.tzinfo is not None
        assert found.expires_at > datetime.now(UTC)

    async def test_a_changed_token_is_refused(
        self, subject: TokenVerifier, extension: TokenVerifierExtension
    ) -> None:
        """V2: cut, extended, with other claims, and without its signature."""
        for name, token in _forgeries(await self.valid_token()):
            assert await _refused(subject, extension, token), f"accepted: {name}"

    async def test_many_tokens_at_once_are_verified(self, subject: TokenVerifier) -> None:
        """V2: each request has the principal of its own token."""
        token = await self.valid_token()

        found = await asyncio.gather(*(subject.verify(token) for _ in range(50)))

        assert {_identity(each) for each in found} == {_identity(self.principal())}

    async def test_whatever_is_sent_is_refused_in_time(
        self, subject: TokenVerifier, extension: TokenVerifierExtension
    ) -> None:
        """V3: text that is not a token causes no server error."""
        for name, token in _nonsense():
            assert await _refused(subject, extension, token), f"accepted: {name}"

    async def test_no_token_is_shown(
        self,
        subject: TokenVerifier,
        extension: TokenVerifierExtension,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """V3: neither in a message nor in a log, even at the lowest level."""
        caplog.set_level(logging.DEBUG)
        valid = await self.valid_token()
        forged = [token for _, token in _forgeries(valid)]
        tokens = [*(await self.invalid_tokens()).values(), *forged]
        with capture_logs() as logs:
            await subject.verify(valid)
            messages = [await _message(subject, extension, token) for token in tokens]

        output = "\n".join([*messages, caplog.text, *map(str, logs)])
        assert not any(part in output for token in (valid, *tokens) for part in _parts(token))

    async def test_clients_learn_where_they_get_tokens(self, subject: TokenVerifier) -> None:
        """V4: the token endpoint and the grant, with absolute URLs."""
        found = await subject.smart_configuration(BASE)

        assert _is_absolute(found["token_endpoint"])
        assert "client_credentials" in found["grant_types_supported"]
        urls = [value for name, value in found.items() if name.endswith(("_endpoint", "_uri"))]
        assert all(map(_is_absolute, urls))


def _identity(principal: Principal) -> tuple[str, str, str]:
    return principal.issuer, principal.subject, principal.client_id


async def _refused(verifier: TokenVerifier, extension: TokenVerifierExtension, token: str) -> bool:
    try:
        await call_within(extension.time_limit, verifier.verify, token)
    except InvalidToken:
        return True
    return False


async def _message(verifier: TokenVerifier, extension: TokenVerifierExtension, token: str) -> str:
    try:
        await call_within(extension.time_limit, verifier.verify, token)
    except Exception as error:  # noqa: BLE001  whatever it says
        return f"{error!s} {error!r}"
    return ""


def _forgeries(token: str) -> Iterator[tuple[str, str]]:
    """Yield tokens that are forged from a valid one."""
    yield "cut", token[:-4]
    yield "extended", f"{token}AAAA"
    yield "twice", f"{token} {token}"
    yield "with a line end", f"{token}\n"
    head, dot, rest = token.partition(".")
    payload, _, signature = rest.partition(".")
    if not dot or not signature:
        return
    claims = json.loads(_decoded(payload))
    more = _encoded(claims | {"scope": "system/*.cruds", "sub": "another", "iss": "another"})
    yield "with other claims", f"{head}.{more}.{signature}"
    yield "without signature", f"{head}.{payload}."
    header = json.loads(_decoded(head))
    for name in ("none", "None", "HS256", "HS384"):
        yield f"with alg {name}", f"{_encoded(header | {'alg': name})}.{payload}."
        yield (
            f"with alg {name}, signed",
            f"{_encoded(header | {'alg': name})}.{payload}.{signature}",
        )
    unnamed = {key: value for key, value in header.items() if key not in ("kid", "alg")}
    yield "without kid and alg", f"{_encoded(unnamed)}.{payload}.{signature}"
    yield "signed by DER nonsense", f"{head}.{payload}.{_encoded('MEUCIQ' * 16)}"


def _nonsense() -> Iterator[tuple[str, str]]:
    """Yield texts that are not tokens."""
    yield "an empty text", ""
    yield "dots", ".." * 1000
    yield "letters", "a" * 1_000_000
    yield "no ASCII", "\u00e4\u20ac\U0001f600" * 100
    yield "zero bytes", "\0" * 100
    yield "half a surrogate", "\ud800.\udc00.a"
    yield "a deep header", f"{_base64(b'[' * 100_000)}.e30.AAAA"
    yield "no object", f"{_encoded([])}.{_encoded([])}.AAAA"
    digits = b'{"alg":' + b"9" * 10_000 + b"}"
    yield "a large number", f"{_base64(digits)}.e30.AAAA"
    header = _encoded({"alg": "RS384", "kid": "x" * 10_000, "typ": "JWT"})
    yield "an endless kid", f"{header}.{_encoded({'exp': 'x'})}.AAAA"
    unknown = _encoded(
        {"alg": "RS384", "kid": "../../etc", "jku": "http://127.0.0.1:1/", "x5u": 1}
    )
    yield "an address of keys", f"{unknown}.{_encoded({'iss': {}, 'exp': None})}.AAAA"


def _parts(token: str) -> Iterator[str]:
    """Yield parts of a token; a text that reveals some of the token contains one of them."""
    return (
        token[at : at + PART_LENGTH]
        for at in range(0, len(token) - PART_LENGTH + 1, PART_LENGTH // 2)
    )


def _is_absolute(url: str) -> bool:
    split = urlsplit(url)
    return split.scheme in ("http", "https") and bool(split.netloc)


def _encoded(value: object) -> str:
    return _base64(json.dumps(value).encode())


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
