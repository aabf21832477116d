"""
JSON as a FHIR server must read it: nothing ambiguous gets in, nothing is reworded.

Readers differ in what they make of duplicate keys, lone surrogates and NUL. What two readers could
understand differently is refused here, once, so that everything stored reads the same everywhere.
"""

import json
import re
from collections import Counter
from itertools import accumulate
from typing import Any, NoReturn

import msgspec

from helios_core.errors import InvalidResource

MAX_DEPTH = 200
"""How many objects and arrays may lie inside each other; the specification's examples need 20."""

# Decimals stay the text they were (1.10, 1e-7): the tree can be encoded again byte for byte.
_DECODER = msgspec.json.Decoder(Any, float_hook=msgspec.Raw)
_ENCODER = msgspec.json.Encoder()
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])

_ESCAPE = rb"(?<!\\)(?:\\\\)*\\u"
_NUL = re.compile(_ESCAPE + rb"0000")
_LONE_SURROGATE = re.compile(
    _ESCAPE + rb"d(?:[89ab]..(?!\\ud[c-f])|(?<!\\ud[89ab]..\\ud)[c-f])", re.IGNORECASE | re.DOTALL
)
_ELEMENT_NAME = re.compile(r"_?[A-Za-z][A-Za-z0-9]{0,63}")
_NEITHER_BRACKET_NOR_QUOTE = bytes(set(range(256)) - set(b'"{}[]'))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_STEP = {ord("["): 1, ord("]"): -1}
_LEVELS_REMOVED = 8


def read_object(body: bytes) -> tuple[dict[str, Any], bytes]:
    """
    Give a JSON object as a tree, and its text without insignificant white space.

    In the tree a number that is not an integer is a `msgspec.Raw` of its text.

    Raises:
        InvalidResource: It is not one UTF-8 JSON object, or one that could be read in two ways.
    """
    tree = _decode(body)
    if not isinstance(tree, dict):
        raise InvalidResource("the body is JSON but not an object; a FHIR resource is an object")
    _refuse_depth(body)
    text = _ENCODER.encode(tree)
    if text == body:
        text = body
    elif text != (shortened := msgspec.json.format(body, indent=-1)):
        # Escapes, -0 and the like also make a difference; only duplicate keys are refused.
        _refuse_duplicates(shortened)
        text = shortened
    if b"\\u0000" in text and _NUL.search(text):
        raise InvalidResource(r"the body holds a NUL character (\u0000); FHIR strings have none")
    return tree, text


def compact_json(body: bytes) -> bytes:
    """
    Give JSON without insignificant white space; the text of its values is not looked into.

    Raises:
        InvalidResource: It is not JSON.
    """
    try:
        return msgspec.json.format(body, indent=-1)
    except RecursionError as error:
        raise _too_deep() from error
    except msgspec.DecodeError as error:
        raise InvalidResource(_complaint(body, error)) from error


def object_members(text: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """
    Give the members of an object in compact text, undecoded.

    Raises:
        InvalidResource: It is not an object, or names a member twice.
    """
    text = bytes(text)
    try:
        found = _MEMBERS.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _decode(text)
        raise InvalidResource("found a JSON value where an object is required") from None
    if _ENCODER.encode(found) != text:
        _refuse_duplicates(text)
    return found


def _decode(body: bytes) -> object:
    try:
        return _DECODER.decode(body)
    except RecursionError as error:
        raise _too_deep() from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidResource(_complaint(body, error)) from error


def _complaint(body: bytes, error: Exception) -> str:
    if not body.strip():
        return "the body is empty; a JSON object is required"
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return "the body begins with a byte order mark; send UTF-8 without one"
    try:
        body.decode()
    except UnicodeDecodeError as undecodable:
        return f"the body is not UTF-8 (byte {undecodable.start})"
    if surrogate := _LONE_SURROGATE.search(body):
        return (
            rf"the body holds half a surrogate pair (\u escape ending at byte {surrogate.end()})"
        )
    return f"the body is not valid JSON: {str(error).removeprefix('JSON is malformed: ')}"


def _too_deep() -> InvalidResource:
    return InvalidResource(f"the body is nested more than {MAX_DEPTH} levels deep")


def _refuse_depth(body: bytes) -> None:
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return
    brackets = _brackets(body)
    for removed in range(_LEVELS_REMOVED):
        if len(brackets) <= 2 * (MAX_DEPTH - removed):
            return
        brackets = brackets.replace(b"[]", b"")
    # What is still long here is rare, and counting takes the same time whatever its shape.
    if _LEVELS_REMOVED + max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise _too_deep()


def _brackets(body: bytes) -> bytes:
    unescaped = body.replace(rb"\\", b"").replace(rb"\"", b"")
    kept = unescaped.translate(_ONE_KIND, _NEITHER_BRACKET_NOR_QUOTE)
    # Quotes that touch go in pairs; what was inside a string stays inside.
    paired = kept.replace(b'""', b"")
    return re.sub(rb'"[^"]*"', b"", paired) if b'"' in paired else paired


def _without_duplicates(pairs: list[tuple[str, object]]) -> None:
    names = {name for name, _ in pairs}
    if len(names) != len(pairs):
        _name_duplicate([name for name, _ in pairs])


def _name_duplicate(names: list[str]) -> NoReturn:
    repeated = Counter(names).most_common(1)[0][0]
    # A member can be called anything; only what looks like an element is safe to repeat.
    shown = f" ({repeated})" if _ELEMENT_NAME.fullmatch(repeated) else ""
    raise InvalidResource(
        f"the body names a member twice in one object{shown}; each may occur once"
    )


# Numbers are not looked at, and Python refuses to convert the very long ones.
_DUPLICATES = json.JSONDecoder(
    object_pairs_hook=_without_duplicates, parse_int=str, parse_float=str
)


def _refuse_duplicates(text: bytes) -> None:
    _refuse_depth(text)
    try:
        _DUPLICATES.decode(text.decode())
    except UnicodeDecodeError as error:
        raise InvalidResource(_complaint(text, error)) from error
