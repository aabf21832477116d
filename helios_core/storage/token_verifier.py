"""The contract of a verifier of access tokens."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar

import msgspec

from helios_core.errors import BackendError, InvalidToken
from helios_core.model.principals import Principal
from helios_core.storage.isolation import decide_within

P = ParamSpec("P")
T = TypeVar("T")


class TokenVerifier(ABC):
    """
    Verifies the access tokens of requests.

    V1  A token that is not valid raises InvalidToken; an issuer that cannot be reached raises
        BackendUnavailable, and never InvalidToken.
    V2  The principal holds only claims that were verified.
    V3  Any string that a client sends as its token is processed within bounded time and memory,
        and no part of it is in an error message or a log.
    V4  `smart_configuration` names a token endpoint and the grant client_credentials, and all its
        URLs are absolute.
    """

    @abstractmethod
    async def verify(self, token: str) -> Principal:
        """
        Return the principal of an access token (RFC 6750), which may be any string.

        Raises:
            InvalidToken: The token is malformed, expired, not yet valid, revoked, for another
                audience, of another issuer, or its signature is wrong.
            BackendUnavailable: The token cannot be verified now.
        """

    @abstractmethod
    async def smart_configuration(self, base: str) -> Mapping[str, Any]:
        """
        Return the members of `.well-known/smart-configuration` that the issuer decides on.

        They include `token_endpoint` and `grant_types_supported`, and all URLs are absolute. An
        `authorization_endpoint` is optional, but the guide's test kit wants one. The server
        adds the capabilities and scopes that it decides on (SMART App Launch 2.2, section
        Conformance). `base` is the public base URL of this server, without a final slash.

        Raises:
            BackendUnavailable: The issuer cannot be reached now.
        """


class ContainedVerifier(TokenVerifier):
    """A verifier whose faults become BackendErrors, so that a broken one lets nobody in."""

    def __init__(self, verifier: TokenVerifier, *, time_limit: timedelta) -> None:
        self._verifier = verifier
        self._time_limit = time_limit

    async def verify(self, token: str) -> Principal:
        """
        Return the principal of an access token.

        Raises:
            InvalidToken: It is not valid, or no longer.
            BackendError: The verifier failed, or took longer than its time limit.
        """
        verified = await self._call(self._verifier.verify, token)
        if not isinstance(verified, Principal):
            raise BackendError(
                f"the token verifier returned {type(verified).__name__}, which is not a Principal"
            )
        principal = _checked(verified)
        if principal.expires_at.astimezone(UTC) <= datetime.now(UTC):
            raise InvalidToken("The token has expired.")
        return principal

    async def smart_configuration(self, base: str) -> Mapping[str, Any]:
        """
        Return the members of `.well-known/smart-configuration` that the issuer decides on.

        Raises:
            BackendError: The verifier failed, or took longer than its time limit.
        """
        return await self._call(self._verifier.smart_configuration, base)

    async def _call(
        self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await decide_within(
            "token verifier", self._time_limit, InvalidToken, function, *args, **kwargs
        )


def _checked(principal: Principal) -> Principal:
    """
    Return a principal after checking its fields: a claim may be absent, or of any type.

    Raises:
        BackendError: One of them is not what it has to be.
    """
    try:
        return msgspec.convert(msgspec.to_builtins(principal), Principal)
    except (msgspec.ValidationError, TypeError) as error:
        raise BackendError("the token verifier returned a malformed Principal") from error
