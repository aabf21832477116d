"""JSON objects that plugins get from others: tokens, key sets, documents of an issuer."""

from typing import Any

import msgspec

from helios_core.errors import InvalidResource
from helios_core.fhir.strict_json import read_object


def read_json_object(text: bytes) -> dict[str, Any]:
    """
    Parse a JSON object (RFC 8259) that means the same to every parser.

    Member names must be unique at every depth, since parsers differ in which of two members with
    one name they take (RFC 7515, section 4).

    Raises:
        ValueError: It is not an object, or is ambiguous by the rules for resources; the message
            quotes no part of it.
    """
    try:
        read_object(text)
        value: dict[str, Any] = msgspec.json.decode(text)
    except (InvalidResource, msgspec.DecodeError):
        raise ValueError("it is not a JSON object with unique names") from None
    return value
