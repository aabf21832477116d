"""What an operator can set about the token endpoint."""

from typing import Annotated

import msgspec
from msgspec import Meta


class SmartAuthSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are issued, and which addresses of keys are read."""

    base_url: Annotated[
        str | None,
        Meta(
            title="URL",
            description="Issuer and audience of tokens; when unset, the base URL that the client "
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
            description="How much the clock of a client may differ from the server's",
        ),
    ] = 10
    jwks_timeout: Annotated[
        float,
        Meta(
            gt=0,
            le=30,
            title="seconds",
            description="How long reading the keys of a client from its URL may take, all in all",
        ),
    ] = 4.0
    jwks_allow_private: Annotated[
        bool,
        Meta(
            description="Whether keys are read from private addresses too, such as 10.0.0.0/8; "
            "link-local addresses are never asked",
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
            "refuses everybody, and the grant authorization_code, as STU 2.0 of SMART App Launch "
            "and Inferno require",
        ),
    ] = True
