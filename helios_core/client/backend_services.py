"""Access tokens of SMART Backend Services: requested with a signed assertion, and renewed."""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import msgspec
import stamina
from joserfc import jws

from helios_core.client.documents import decode_json
from helios_core.client.errors import ExportFailed, RequestRefused, should_retry
from helios_core.client.manifest import is_reference
from helios_core.client.session import unreachable
from helios_core.client.signing_keys import SigningKey, read_signing_key

SCOPE: Final = "system/*.read"
"""The scope that is requested by default; servers grant the part that they allow."""

_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_SECONDS: Final = 240
"""The lifetime of an assertion: below the 300 s that servers allow, whose clock may be behind."""
_DEFAULT_LIFE_SECONDS: Final = 300
"""The lifetime of a token whose response does not have `expires_in`."""
_EARLY: Final = 0.2
"""The share of its lifetime that a token still has when it is renewed."""
_ATTEMPTS: Final = 5
"""Requests for the first token; the user may have mistyped the address and waits for them."""
_RENEWALS: Final = 8
"""Requests for a further token, as many as any other request of the export is sent."""
_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS: Final = 20
_TIMEOUT: Final = httpx.Timeout(30, connect=10)
_LONGEST_TEXT: Final = 300


class TokenRefused(ExportFailed):
    """The token endpoint did not issue a token."""


class _Token(msgspec.Struct, frozen=True, kw_only=True):
    access_token: str
    token_type: str
    expires_in: float = _DEFAULT_LIFE_SECONDS


class BackendServices:
    """
    The credentials of a client that is registered at the server's token endpoint.

    The server's `.well-known/smart-configuration` names that endpoint.
    """

    def __init__(
        self,
        base_url: str,
        client_id: str,
        key_file: Path,
        *,
        key_id: str | None = None,
        scope: str | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._client_id = client_id
        self._key_file = key_file
        self._key_id = key_id
        self._scope = scope or SCOPE
        self._turn = asyncio.Lock()
        self._header: str | None = None
        self._renew_at = 0.0

    @property
    def origin(self) -> Mapping[str, str]:
        """The client's id, the path of its key and the scopes; see `Credentials`."""
        origin = {"client_id": self._client_id, "key": str(self._key_file.absolute())}
        origin |= {"key_id": self._key_id} if self._key_id else {}
        return {**origin, "scope": self._scope}

    async def header(self) -> str:
        """
        Return a token as a header; a new one is requested before the old one expires.

        Raises:
            ConfigurationError: The key cannot be used.
            ExportFailed: The server does not issue a token, or cannot be reached.
        """
        async with self._turn:
            if self._header is None or time.monotonic() >= self._renew_at:
                await self._renew()
            assert self._header is not None  # noqa: S101  it has been set
            return self._header

    async def renewed(self, refused: str) -> bool:
        """Request a token, unless a concurrent request has done so; see `Credentials`."""
        async with self._turn:
            if self._header == refused:
                await self._renew()
            return self._header != refused

    async def _renew(self) -> None:
        key = await asyncio.to_thread(read_signing_key, self._key_file, self._key_id)
        requested_at = time.monotonic()
        attempts = _ATTEMPTS if self._header is None else _RENEWALS
        async with httpx.AsyncClient(timeout=_TIMEOUT) as client:
            endpoint = await self._endpoint(client, attempts)
            token = await self._token(client, endpoint, key, attempts)
        self._header = f"Bearer {token.access_token}"
        self._renew_at = requested_at + token.expires_in * (1 - _EARLY)

    async def _endpoint(self, client: httpx.AsyncClient, attempts: int) -> str:
        """Return the URL of the token endpoint, which must have TLS if the server has."""
        url = f"{self._base_url}/.well-known/smart-configuration"
        accept = {"Accept": "application/json"}
        response = await _sent(client, "GET", url, attempts, headers=accept)
        endpoint = _members(response).get("token_endpoint") if response.is_success else None
        if not isinstance(endpoint, str):
            raise TokenRefused(
                f"{url} names no token endpoint (status {response.status_code}); is the address "
                "the base of a server that needs access tokens?"
            )
        if not is_reference(endpoint):
            raise TokenRefused(f"{url} names a token endpoint that is not a valid URL")
        if not endpoint.startswith(("https://", f"{httpx.URL(self._base_url).scheme}://")):
            raise TokenRefused(
                f"{url} names a token endpoint without TLS; credentials are sent over https only"
            )
        return endpoint

    async def _token(
        self, client: httpx.AsyncClient, endpoint: str, key: SigningKey, attempts: int
    ) -> _Token:
        def form() -> Mapping[str, str]:
            return {
                "grant_type": "client_credentials",
                "scope": self._scope,
                "client_assertion_type": _ASSERTION,
                "client_assertion": self._assertion(endpoint, key),
            }

        response = await _sent(client, "POST", endpoint, attempts, form=form)
        if response.status_code == httpx.codes.OK:
            try:
                token = decode_json(response.content, _Token)
            except msgspec.DecodeError:
                token = None
            if token and token.token_type.lower() == "bearer" and _is_token(token.access_token):
                return token
            raise TokenRefused(f"{endpoint} returned 200 without a bearer token that can be used")
        members = _members(response)
        texts = (members.get(name) for name in ("error", "error_description"))
        reason = ": ".join(_printable(text) for text in texts if isinstance(text, str))
        raise TokenRefused(
            f"{endpoint} issues no token to client {self._client_id} (status "
            f"{response.status_code}): {reason or 'it does not say why'}"
        )

    def _assertion(self, endpoint: str, key: SigningKey) -> str:
        now = int(time.time())
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": endpoint,
            "iat": now,
            "exp": now + _ASSERTION_SECONDS,
            "jti": uuid4().hex,
        }
        header = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT"}
        return jws.serialize_compact(
            header, msgspec.json.encode(claims), key.key, algorithms=[key.algorithm]
        )


async def _sent(  # noqa: PLR0913  what a request consists of
    client: httpx.AsyncClient,
    method: str,
    url: str,
    attempts: int,
    *,
    headers: Mapping[str, str] | None = None,
    form: Callable[[], Mapping[str, str]] | None = None,
) -> httpx.Response:
    """Return the response to a request, repeated with a new form after transient failures."""
    try:
        async for attempt in stamina.retry_context(
            on=should_retry,
            attempts=attempts,
            timeout=None,
            wait_initial=_FIRST_WAIT_SECONDS,
            wait_jitter=_FIRST_WAIT_SECONDS,
            wait_max=_LONGEST_WAIT_SECONDS,
        ):
            with attempt:
                response = await client.request(
                    method, url, headers=headers, data=form() if form else None
                )
                _raise_if_busy(response)
                return response
    except httpx.TransportError as error:
        raise unreachable(error, url) from error
    except RequestRefused as busy:
        raise TokenRefused(
            f"{url} returned {busy.status} to the last of {attempts} requests: it, or a service "
            "that it depends on, is busy or down; try again later"
        ) from None
    raise AssertionError("the last attempt returns or raises")


def _raise_if_busy(response: httpx.Response) -> None:
    if not response.is_success and (refused := RequestRefused(response)).transient:
        raise refused


def _members(response: httpx.Response) -> Mapping[str, Any]:
    try:
        return decode_json(response.content, dict[str, Any])
    except msgspec.DecodeError:
        return {}


def _printable(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())[:_LONGEST_TEXT]


def _is_token(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
