"""JSON documents of servers and files."""

from typing import TypeVar

import msgspec

T = TypeVar("T")


def decode_json(document: bytes, type_: type[T]) -> T:
    """
    Return a JSON document as a type.

    Raises:
        msgspec.DecodeError: It is not JSON, is nested too deeply, or is not of the type.
    """
    try:
        return msgspec.json.decode(document, type=type_)
    except (UnicodeDecodeError, RecursionError):
        raise msgspec.DecodeError("it is not UTF-8, or is nested too deeply") from None
