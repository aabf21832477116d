"""JSON objects from outside, read in one way only."""

import json
from typing import Any, NoReturn


def read_object(text: bytes) -> dict[str, Any]:
    """
    Return a JSON object (RFC 8259) whose names are unique at every depth.

    Of two members of one name each reader would choose its own, so there may be none (RFC 7515,
    section 4).

    Raises:
        ValueError: It is something else; the message has no part of it.
    """
    try:
        value = json.loads(
            text.decode(), object_pairs_hook=_unique_names, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        raise ValueError("it is not a JSON object with unique names") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004  the text is wrong, not its type
    return value


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
