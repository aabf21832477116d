"""
Parse JSON strictly: refuse ambiguous JSON, and keep the text of everything else.

JSON parsers differ in how they treat duplicate keys, lone surrogates and NUL. Text that two
parsers could read differently is refused, so that all clients read stored resources alike.
"""

import json
import re
from collections import Counter
from decimal import Decimal
from itertools import accumulate
from typing import Any, NoReturn

import msgspec

from helios_core.errors import InvalidResource

MAX_DEPTH = 200
"""The deepest nesting of objects and arrays; the examples of the specification need 20."""

# Decimals keep their text (1.10, 1e-7), so that encoding the tree restores every byte.
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
_SQUARE_BRACKETS = bytes.maketrans(b"{}", b"[]")
_DEPTH_CHANGE = {ord("["): 1, ord("]"): -1}
_LEVELS_REMOVED = 8


def exact_number(text: str) -> Decimal | msgspec.Raw:
    """Return a number with all its digits; as raw text if its exponent is beyond `Decimal`."""
    try:
        return Decimal(text)
    except ArithmeticError:
        return msgspec.Raw(text)


def read_object(body: bytes) -> tuple[dict[str, Any], bytes]:
    """
    Return a JSON object as a tree, and its text without insignificant white space.

    Numbers of the tree that are not integers are `msgspec.Raw` with their text.

    Raises:
        InvalidResource: The body is not one JSON object in UTF-8, or it is ambiguous.
    """
    tree = _decode(body)
    if not isinstance(tree, dict):
        raise InvalidResource("the body is JSON but not an object; a FHIR resource is an object")
    _check_depth(body)
    text = _ENCODER.encode(tree)
    if text == body:
        text = body
    elif text != (shortened := msgspec.json.format(body, indent=-1)):
        # Duplicate keys change the text, but so do escapes, -0 and the like.
        _check_duplicates(shortened)
        text = shortened
    if b"\\u0000" in text and _NUL.search(text):
        raise InvalidResource(
            r"the body has a NUL character (\u0000); FHIR strings must not have one"
        )
    return tree, text


def compact_json(body: bytes) -> bytes:
    """
    Return JSON without insignificant white space, without checking the text of strings.

    Raises:
        InvalidResource: The body is not JSON.
    """
    try:
        return msgspec.json.format(body, indent=-1)
    except RecursionError as error:
        raise _too_deep() from error
    except msgspec.DecodeError as error:
        raise InvalidResource(_explain(body, error)) from error


def object_members(text: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """
    Return the members of an object in compact JSON, undecoded.

    Raises:
        InvalidResource: The text is not an object, or has two members with one name.
    """
    text = bytes(text)
    try:
        members = _MEMBERS.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _decode(text)  # raises a better message if this is not JSON
        raise InvalidResource("a JSON object is required") from None
    if _ENCODER.encode(members) != text:
        _check_duplicates(text)
    return members


def _decode(body: bytes) -> object:
    try:
        return _DECODER.decode(body)
    except RecursionError as error:
        raise _too_deep() from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidResource(_explain(body, error)) from error


def explain_fault(body: bytes, error: Exception, shape: str) -> str:
    """
    Return what is wrong with a body of which `error` was raised.

    That is `shape`, the expected form, if the body is empty or JSON of another form.
    """
    is_json = isinstance(error, (msgspec.ValidationError, RecursionError))
    return shape if is_json or not body.strip() else _explain(body, error)


def _explain(body: bytes, error: Exception) -> str:
    if not body.strip():
        return "the body is empty; a JSON object is required"
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return "the body begins with a byte order mark; send UTF-8 without one"
    try:
        body.decode()
    except UnicodeDecodeError as undecodable:
        return f"the body is not UTF-8 (byte {undecodable.start})"
    if surrogate := _LONE_SURROGATE.search(body):
        return rf"the body has half a surrogate pair (\u escape ending at byte {surrogate.end()})"
    return f"the body is not valid JSON: {str(error).removeprefix('JSON is malformed: ')}"


def _too_deep() -> InvalidResource:
    return InvalidResource(f"the body is nested more than {MAX_DEPTH} levels deep")


def _check_depth(body: bytes) -> None:
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return
    brackets = _brackets(body)
    # Each round removes the innermost pairs, after which most bodies are short.
    for removed in range(_LEVELS_REMOVED):
        if len(brackets) <= 2 * (MAX_DEPTH - removed):
            return
        brackets = brackets.replace(b"[]", b"")
    # Few bodies get here. Counting takes the same time for brackets in any order.
    depth = max(accumulate(map(_DEPTH_CHANGE.__getitem__, brackets)), default=0)
    if _LEVELS_REMOVED + depth > MAX_DEPTH:
        raise _too_deep()


def _brackets(body: bytes) -> bytes:
    """Return the brackets that are not inside of strings, braces as square brackets."""
    unescaped = body.replace(rb"\\", b"").replace(rb"\"", b"")
    kept = unescaped.translate(_SQUARE_BRACKETS, _NEITHER_BRACKET_NOR_QUOTE)
    # Two quotes side by side can go: the other quotes still begin and end the same strings.
    paired = kept.replace(b'""', b"")
    return re.sub(rb'"[^"]*"', b"", paired) if b'"' in paired else paired


def _check_pairs(pairs: list[tuple[str, object]]) -> None:
    names = {name for name, _ in pairs}
    if len(names) != len(pairs):
        _raise_duplicate([name for name, _ in pairs])


def _raise_duplicate(names: list[str]) -> NoReturn:
    repeated = Counter(names).most_common(1)[0][0]
    # A member can have any name, even a patient's; one that looks like an element is safe.
    name = f" ({repeated})" if _ELEMENT_NAME.fullmatch(repeated) else ""
    raise InvalidResource(
        f"the body has two members with the same name{name} in one object; names must be unique"
    )


# Numbers stay text: only names are compared, and Python refuses to convert very long numbers.
_DUPLICATES = json.JSONDecoder(object_pairs_hook=_check_pairs, parse_int=str, parse_float=str)


def _check_duplicates(text: bytes) -> None:
    _check_depth(text)
    try:
        _DUPLICATES.decode(text.decode())
    except UnicodeDecodeError as error:
        raise InvalidResource(_explain(text, error)) from error
