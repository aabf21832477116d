"""Who may call: the contract of a verifier of access tokens."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from helios_core.model.principals import Principal


class TokenVerifier(ABC):
    """
    Verifies the access tokens of requests.

    V1  A token that is not valid raises InvalidToken; an issuer that cannot be reached raises
        BackendUnavailable, and never InvalidToken.
    V2  The principal has verified claims only.
    V3  Whatever a client sends as its token is answered within bounded time and memory, and
        neither a message nor a log has a part of it.
    """

    @abstractmethod
    async def verify(self, token: str) -> Principal:
        """
        Return the principal of an access token (RFC 6750), which may be any string.

        Raises:
            InvalidToken: The token is malformed, expired, not yet valid, revoked, for another
                audience, of another issuer, or its signature is wrong.
            BackendUnavailable: Nobody can tell now.
        """

    @abstractmethod
    async def smart_configuration(self, base: str) -> Mapping[str, Any]:
        """
        Return the members of `.well-known/smart-configuration` that the issuer decides on.

        They include `token_endpoint` and `grant_types_supported`, and all URLs are absolute; the
        server adds the capabilities and scopes that it decides on (SMART App Launch 2.2, section
        Conformance). `base` is the public base URL of this server, without a final slash.

        Raises:
            BackendUnavailable: The issuer does not say now.
        """
