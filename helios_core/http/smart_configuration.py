"""The document `.well-known/smart-configuration` (SMART App Launch 2.2, section Conformance)."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

CAPABILITIES: Final = ("client-confidential-asymmetric", "permission-v1", "permission-v2")
"""What this server and its clients support, whoever issues the tokens."""
SCOPES: Final = ("system/*.cruds", "system/*.rs", "system/*.read", "system/*.write", "system/*.*")
GRANT: Final = "client_credentials"
CODE_GRANT: Final = "authorization_code"
"""Listed only with an authorization endpoint; the guide's test kit requires both together."""


def smart_document(issuer: Mapping[str, Any]) -> bytes:
    """Return the document as JSON: the issuer's members, completed with those of this server."""
    document = {
        "scopes_supported": SCOPES,
        "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ["RS384", "ES384"],
        **issuer,
    }
    grants = [GRANT, *([CODE_GRANT] if "authorization_endpoint" in issuer else [])]
    document["grant_types_supported"] = _joined(issuer.get("grant_types_supported"), grants)
    document["capabilities"] = _joined(issuer.get("capabilities"), CAPABILITIES)
    challenges = _joined(issuer.get("code_challenge_methods_supported"), ["S256"])
    document["code_challenge_methods_supported"] = [c for c in challenges if c != "plain"]
    return msgspec.json.encode(document)


def _joined(*lists: Any) -> list[str]:  # noqa: ANN401  whatever the issuer says
    return list(dict.fromkeys(word for words in lists for word in words or ()))
