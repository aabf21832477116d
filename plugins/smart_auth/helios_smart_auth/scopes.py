"""Scopes: what a client may have, and what of it a token grants."""

import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

_OPERATIONS = "cruds"
_V1 = {"read": "rs", "write": "cud", "*": _OPERATIONS}
_SCOPE = re.compile(
    r"system/(?P<type>\*|[A-Z][A-Za-z]{0,63})\."
    r"(?P<operations>read|write|\*|(?=[cruds])c?r?u?d?s?)"
    r"(?:\?(?P<query>[\x21\x23-\x5b\x5d-\x7e]+))?"
)


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """A `system/` scope of SMART App Launch 2, or one of version 1 in the same terms."""

    text: str
    resource_type: str
    """`*` is every type."""
    operations: str
    """Some letters of `cruds`, in that order."""
    query: str = ""
    """The search that resources have to match; empty if all do."""


def parse_scope(text: str) -> Scope | None:
    """Return a scope, or None for any other word; contexts other than `system/` are none here."""
    match = _SCOPE.fullmatch(text)
    if match is None:
        return None
    operations = match["operations"]
    if match["query"] and operations in _V1:
        return None  # version 1 has no queries
    return Scope(
        text=text,
        resource_type=match["type"],
        operations=_V1.get(operations, operations),
        query=match["query"] or "",
    )


def granted(requested: str, registered: Iterable[str]) -> Sequence[str]:
    """
    Return what a client that registered some scopes gets of those that it requests.

    A scope that is covered stays as it was requested; of others the part that is covered is
    granted. Words that are no scopes of clients grant nothing.
    """
    allowed = [scope for scope in map(parse_scope, registered) if scope is not None]
    words = (parse_scope(word) for word in dict.fromkeys(requested.split(" ")))
    return list(dict.fromkeys(part for word in words if word for part in _parts(word, allowed)))


def _parts(requested: Scope, allowed: Sequence[Scope]) -> Iterator[str]:
    common = [each for scope in allowed if (each := _common(requested, scope))]
    if any(_covers(each, requested) for each in common):
        yield requested.text
        return
    for each in common:
        if not any(_covers(other, each) for other in common if other != each):
            yield each.text


def _common(one: Scope, other: Scope) -> Scope | None:
    if "*" not in (one.resource_type, other.resource_type):
        if one.resource_type != other.resource_type:
            return None
    resource_type = other.resource_type if one.resource_type == "*" else one.resource_type
    operations = "".join(
        letter for letter in _OPERATIONS if letter in one.operations and letter in other.operations
    )
    if not operations:
        return None
    query = "&".join(dict.fromkeys(filter(None, (one.query, other.query))))
    suffix = f"?{query}" if query else ""
    return Scope(
        text=f"system/{resource_type}.{operations}{suffix}",
        resource_type=resource_type,
        operations=operations,
        query=query,
    )


def _covers(one: Scope, other: Scope) -> bool:
    return (
        one.resource_type in ("*", other.resource_type)
        and set(other.operations) <= set(one.operations)
        and one.query in ("", other.query)
    )
