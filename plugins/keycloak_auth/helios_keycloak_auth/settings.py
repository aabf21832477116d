"""The settings of the issuer of access tokens."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from helios_core import Secret

_ISSUER = r"^https?://[^\s/?#@]+(/[^\s?#]*)?$"
_ENDPOINT = r"^https?://[^\s/?#@]+(/[^\s#]*)?$"
_DISCOVERED = "from the issuer's discovery document"


class Algorithm(StrEnum):
    """The signature algorithms that can be accepted (RFC 7518, section 3.1)."""

    RS256 = "RS256"
    RS384 = "RS384"
    ES256 = "ES256"
    ES384 = "ES384"
    PS256 = "PS256"


def _endpoint(description: str, name: str, default: str) -> Meta:
    return Meta(
        pattern=_ENDPOINT,
        title="URL",
        description=description,
        extra={"name": name, "default": default, "allowed": "an http or https address"},
    )


class KeycloakAuthSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which tokens are accepted, how the issuer is reached, and what clients read about it."""

    issuer: Annotated[
        str,
        Meta(
            pattern=_ISSUER,
            title="URL",
            description="The issuer of the tokens, exactly as their `iss` has it.",
            extra={
                "name": "HFS_AUTH_ISSUER",
                "allowed": "an http or https address without a query",
            },
        ),
    ]
    audience: Annotated[
        tuple[str, ...],
        Meta(
            min_length=1,
            description="Accepted audiences, joined by commas; a token's `aud` must contain one.",
            extra={"name": "HFS_AUTH_AUDIENCE"},
        ),
    ]
    jwks_url: (
        Annotated[str, _endpoint("The issuer's JWK Set.", "HFS_AUTH_JWKS_URL", _DISCOVERED)] | None
    ) = None
    algorithms: Annotated[
        tuple[Algorithm, ...],
        Meta(
            min_length=1,
            description="Accepted signature algorithms.",
            extra={
                "name": "HFS_AUTH_ALGORITHMS",
                "allowed": "RS256, RS384, ES256, ES384 and PS256, joined by commas",
            },
        ),
    ] = tuple(Algorithm)
    tenant_claim: Annotated[
        str,
        Meta(
            min_length=1,
            description="The claim with the client's tenant; a token without it has no tenant.",
            extra={"name": "HFS_AUTH_TENANT_CLAIM", "allowed": "the name of a claim"},
        ),
    ] = "tenant_id"
    allow_http: Annotated[
        bool,
        Meta(
            description="Whether requests to the issuer may go without TLS.",
            extra={"name": "HFS_AUTH_ALLOW_HTTP"},
        ),
    ] = False
    request_timeout: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="Timeout of one request to the issuer.",
            extra={"name": "HFS_AUTH_REQUEST_TIMEOUT"},
        ),
    ] = timedelta(seconds=2)
    jwks_min_refresh_interval: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="The shortest time between two reads of expired keys, and between two "
            "reads caused by tokens with an unknown key.",
            extra={"name": "HFS_AUTH_JWKS_MIN_REFRESH_INTERVAL"},
        ),
    ] = timedelta(seconds=10)
    jwks_max_stale: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="How long expired keys stay in use while the issuer cannot be reached.",
            extra={"name": "HFS_AUTH_JWKS_MAX_STALE"},
        ),
    ] = timedelta(hours=1)
    introspection_client_id: Annotated[
        str | None,
        Meta(
            description="The client id for introspection, which finds out whether a token has "
            "been revoked (RFC 7662).",
            extra={"name": "HFS_AUTH_INTROSPECTION_CLIENT_ID", "default": "no introspection"},
        ),
    ] = None
    introspection_client_secret: Annotated[
        Secret | None,
        Meta(
            description="The client secret for introspection.",
            extra={"name": "HFS_AUTH_INTROSPECTION_CLIENT_SECRET"},
        ),
    ] = None
    introspection_url: (
        Annotated[
            str,
            _endpoint("Address for introspection.", "HFS_AUTH_INTROSPECTION_URL", _DISCOVERED),
        ]
        | None
    ) = None
    introspection_ttl: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="How long the result for a token is remembered.",
            extra={"name": "HFS_AUTH_INTROSPECTION_TTL"},
        ),
    ] = timedelta(seconds=10)
    smart_token_endpoint: (
        Annotated[
            str,
            _endpoint(
                "Where clients get tokens. If it is set, `.well-known/smart-configuration` is "
                "made from settings alone, without the issuer's discovery document.",
                "HFS_SMART_TOKEN_ENDPOINT",
                _DISCOVERED,
            ),
        ]
        | None
    ) = None
    smart_authorize_endpoint: (
        Annotated[
            str,
            _endpoint(
                "The issuer's authorization endpoint.", "HFS_SMART_AUTHORIZE_ENDPOINT", _DISCOVERED
            ),
        ]
        | None
    ) = None
    smart_jwks_url: (
        Annotated[
            str,
            _endpoint(
                "The issuer's keys, as clients reach them.",
                "HFS_SMART_JWKS_URL",
                "HFS_AUTH_JWKS_URL, else from the issuer's discovery document",
            ),
        ]
        | None
    ) = None
    smart_introspection_endpoint: (
        Annotated[
            str,
            _endpoint(
                "The issuer's introspection endpoint.",
                "HFS_SMART_INTROSPECTION_ENDPOINT",
                _DISCOVERED,
            ),
        ]
        | None
    ) = None
    smart_management_endpoint: (
        Annotated[
            str,
            _endpoint(
                "Where users see and revoke the access of clients.",
                "HFS_SMART_MANAGEMENT_ENDPOINT",
                "none",
            ),
        ]
        | None
    ) = None
    smart_registration_endpoint: (
        Annotated[
            str,
            _endpoint(
                "Where clients register themselves.", "HFS_SMART_REGISTRATION_ENDPOINT", "none"
            ),
        ]
        | None
    ) = None
    smart_revocation_endpoint: (
        Annotated[
            str,
            _endpoint(
                "The issuer's revocation endpoint.", "HFS_SMART_REVOCATION_ENDPOINT", _DISCOVERED
            ),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        problems = [problem for wrong, problem in self._contradictions() if wrong]
        if problems:
            raise ValueError("; ".join(problems))

    def _contradictions(self) -> list[tuple[bool, str]]:
        client = "HFS_AUTH_INTROSPECTION_CLIENT"
        asks = self.introspection_client_id is not None
        insecure = [
            name
            for name, url in (
                ("HFS_AUTH_ISSUER", self.issuer),
                ("HFS_AUTH_JWKS_URL", self.jwks_url),
                ("HFS_AUTH_INTROSPECTION_URL", self.introspection_url),
            )
            if url and urlsplit(url).scheme == "http" and not self.allow_http
        ]
        return [
            (
                bool(insecure),
                (
                    f"the address of {' and '.join(insecure)} is http and HFS_AUTH_ALLOW_HTTP is "
                    "not true; use https, or set it where nobody can read or change what is sent"
                ),
            ),
            (
                asks != (self.introspection_client_secret is not None),
                f"{client}_ID and {client}_SECRET must be set together or not at all",
            ),
            (
                self.introspection_url is not None and not asks,
                f"HFS_AUTH_INTROSPECTION_URL is set without {client}_ID",
            ),
        ]
