"""Settings of the token endpoint and of reading clients' keys."""

from typing import Annotated

import msgspec
from msgspec import Meta


class SmartAuthSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are issued, and from which addresses the keys of clients are read."""

    base_url: Annotated[
        str | None,
        Meta(
            title="URL",
            description="Issuer and audience of tokens; if unset, the base URL that the client "
            "used",
            extra={"setting": "HFS_BASE_URL"},
        ),
    ] = None
    token_ttl: Annotated[
        int,
        Meta(
            ge=10,
            le=300,
            title="seconds",
            description="How long an access token is valid",
        ),
    ] = 300
    clock_skew: Annotated[
        int,
        Meta(
            ge=0,
            le=30,
            title="seconds",
            description="How far the clocks of a client and of the server may differ",
        ),
    ] = 10
    jwks_timeout: Annotated[
        float,
        Meta(
            gt=0,
            le=30,
            title="seconds",
            description="How long reading the keys of a client from its URL may take in total",
        ),
    ] = 4.0
    jwks_allow_private: Annotated[
        bool,
        Meta(
            description="Whether keys are also read from private addresses, such as 10.0.0.0/8; "
            "they are never read from link-local addresses",
        ),
    ] = False
    jwks_allow_loopback_http: Annotated[
        bool,
        Meta(
            description="Whether keys are read from this machine without TLS: "
            "http://localhost and http://127.0.0.1",
        ),
    ] = False
    stu2_discovery: Annotated[
        bool,
        Meta(
            description="Whether the discovery document has an authorization endpoint, which "
            "refuses every request, and the grant type authorization_code, as STU 2.0 of SMART "
            "App Launch and Inferno require",
        ),
    ] = True
