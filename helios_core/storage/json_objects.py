"""JSON objects of plugins that nobody vouches for: tokens, key sets, documents of an issuer."""

from typing import Any

import msgspec

from helios_core.errors import InvalidResource
from helios_core.fhir.strict_json import read_object


def read_json_object(text: bytes) -> dict[str, Any]:
    """
    Return a JSON object (RFC 8259) that every reader reads alike.

    Of two members of one name each reader would choose its own, so there may be none, at no depth
    (RFC 7515, section 4).

    Raises:
        ValueError: It is something else, or as ambiguous as a resource must not be; the message
            has no part of it.
    """
    try:
        read_object(text)
        value: dict[str, Any] = msgspec.json.decode(text)
    except (InvalidResource, msgspec.DecodeError):
        raise ValueError("it is not a JSON object with unique names") from None
    return value
