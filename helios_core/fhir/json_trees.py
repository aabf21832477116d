"""
JSON as a tree that is decoded only where it is looked into.

Values that are not looked into keep their bytes, so that 1.10 stays 1.10. A node is a `dict`, a
`list`, or the text of a value that has not been looked into.
"""

from typing import Any, TypeAlias

import msgspec

from helios_core.fhir.strict_json import exact_number, object_members

Node: TypeAlias = "dict[str, Node] | list[Node] | msgspec.Raw"
Container: TypeAlias = dict[str, Node] | list[Node]


class Misfit(LookupError):
    """A patch cannot be applied; the message is for the client, without resource content."""


_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_VALUES = msgspec.json.Decoder(Any, float_hook=exact_number)


def expand(node: Node) -> Node:
    """Return a node; the text of an object or array becomes a container of nodes."""
    if not isinstance(node, msgspec.Raw):
        return node
    text = bytes(node)
    if text.startswith(b"{"):
        return dict(object_members(text))
    return list(_ITEMS.decode(text)) if text.startswith(b"[") else node


def child(container: Container, key: str | int) -> Node:
    """
    Return the expanded child of a container, and store it there in place of its text.

    Raises:
        LookupError: There is no such child.
    """
    if isinstance(container, dict):
        node = container[str(key)] = expand(container[str(key)])
    else:
        node = container[int(key)] = expand(container[int(key)])
    return node


def encode(node: Node) -> bytes:
    """Return the JSON of a node."""
    return msgspec.json.encode(node)


def decode(node: Node) -> Any:  # noqa: ANN401 - decoded JSON
    """Return the Python value of a node; numbers with fractions are `Decimal`."""
    return _VALUES.decode(encode(node))


def equal(first: Node, second: Node) -> bool:
    """Return whether two nodes are equal as JSON: 1.0 is 1, but true is not (RFC 6902, 4.6)."""
    return _equal(decode(first), decode(second))


def prune(node: Node) -> None:
    """Remove empty objects and arrays from expanded nodes: they are not valid in FHIR's JSON."""
    if isinstance(node, msgspec.Raw):
        return
    for value in list(node.values()) if isinstance(node, dict) else node:
        prune(value)
    if isinstance(node, dict):
        for name in [name for name, value in node.items() if value in ({}, [])]:
            del node[name]
    else:
        node[:] = [value for value in node if value != {}]


def _equal(first: object, second: object) -> bool:
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(
            _equal(value, second[name]) for name, value in first.items()
        )
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_equal, first, second))
    return isinstance(first, bool) == isinstance(second, bool) and first == second
