"""
Single steps through decoded JSON.

A walk takes a node and adds to its second argument, mostly a list, what it finds below the node.
A link makes a walk that goes one step and leaves the rest to the walk it is given.
"""

from collections.abc import Callable
from typing import Any

from helios_core.fhir.references import referenced_type

Walk = Callable[[Any, Any], None]
Link = Callable[[Walk], Walk]

DATA_TYPES = (
    "Address",
    "Age",
    "Annotation",
    "Attachment",
    "CodeableConcept",
    "CodeableReference",
    "Coding",
    "ContactDetail",
    "ContactPoint",
    "Count",
    "DataRequirement",
    "Distance",
    "Dosage",
    "Duration",
    "Expression",
    "HumanName",
    "Identifier",
    "Meta",
    "Money",
    "ParameterDefinition",
    "Period",
    "Quantity",
    "Range",
    "Ratio",
    "RatioRange",
    "Reference",
    "RelatedArtifact",
    "SampledData",
    "Signature",
    "Timing",
    "TriggerDefinition",
    "UsageContext",
    "base64Binary",
    "boolean",
    "canonical",
    "code",
    "date",
    "dateTime",
    "decimal",
    "id",
    "instant",
    "integer",
    "integer64",
    "markdown",
    "oid",
    "positiveInt",
    "string",
    "time",
    "unsignedInt",
    "uri",
    "url",
    "uuid",
)
"""What the name of a choice's element can end in."""


def capitalized(data_type: str) -> str:
    """Give a data type as the name of a choice's element ends in it."""
    return data_type[:1].upper() + data_type[1:]


_SUFFIXES = frozenset(map(capitalized, DATA_TYPES))


def is_data_type(name: str) -> bool:
    """Tell data types from resource types."""
    return capitalized(name) in _SUFFIXES


def collect(node: Any, out: Any) -> None:  # noqa: ANN401 - decoded JSON
    """End a walk: this is what was looked for."""
    out.append(node)


def child(names: tuple[str, ...]) -> Link:
    """Go to the elements of any of these names."""
    return _through_several(names) if len(names) > 1 else _through(names[0])


def _through(name: str) -> Link:
    def link(rest: Walk) -> Walk:
        def walk(node: Any, out: Any) -> None:  # noqa: ANN401 - decoded JSON
            if type(node) is dict:
                each_value(node.get(name), out, rest)

        return walk

    return link


def _through_several(names: tuple[str, ...]) -> Link:
    def link(rest: Walk) -> Walk:
        def walk(node: Any, out: Any) -> None:  # noqa: ANN401 - decoded JSON
            if type(node) is dict:
                for name in names:
                    each_value(node.get(name), out, rest)

        return walk

    return link


def choice_child(name: str) -> Link:
    """
    Go to the elements of this name, or, where it is a choice, to that of any type.

    The tables know the choices at the root of a resource only.
    """

    def link(rest: Walk) -> Walk:
        def walk(node: Any, out: Any) -> None:  # noqa: ANN401 - decoded JSON
            if type(node) is not dict:
                return
            if name in node:
                each_value(node[name], out, rest)
                return
            for key in node:
                if key.startswith(name) and key[len(name) :] in _SUFFIXES:
                    each_value(node[key], out, rest)

        return walk

    return link


def indexed_child(name: str, position: int) -> Link:
    """Go to one of the elements of this name, counted from 0."""

    def link(rest: Walk) -> Walk:
        def walk(node: Any, out: Any) -> None:  # noqa: ANN401 - decoded JSON
            items: list[Any] = []
            if type(node) is dict:
                each_value(node.get(name), items, collect)
            if len(items) > position:
                rest(items[position], out)

        return walk

    return link


def each_value(child: Any, out: Any, rest: Walk) -> None:  # noqa: ANN401 - decoded JSON
    """Go on with a value, or with each of an array; null is nothing."""
    if child is None:
        return
    if type(child) is list:
        for item in child:
            if item is not None:
                rest(item, out)
    else:
        rest(child, out)


def _only(kept: Callable[[Any], bool]) -> Link:
    def link(rest: Walk) -> Walk:
        def walk(node: Any, out: Any) -> None:  # noqa: ANN401 - decoded JSON
            if kept(node):
                rest(node, out)

        return walk

    return link


def where_equals(name: str, text: str) -> Link:
    """Keep objects with a member of exactly that text."""
    return _only(lambda node: type(node) is dict and node.get(name) == text)


def where_extension(url: str) -> Link:
    """Keep objects with an extension of that URL."""
    return _only(lambda node: url in _extensions(node))


def _extensions(node: Any) -> list[Any]:  # noqa: ANN401 - decoded JSON
    urls: list[Any] = []
    _EXTENSION_URL(node, urls)
    return urls


_EXTENSION_URL = _through("extension")(_through("url")(collect))


def where_reference_type(resource_type: str) -> Link:
    """Keep references that say they point to a resource of that type."""
    prefix = f"{resource_type}/"

    def points_there(node: Any) -> bool:  # noqa: ANN401 - decoded JSON
        if type(node) is not dict:
            return False
        reference = node.get("reference")
        if type(reference) is not str:
            return bool(node.get("type") == resource_type)
        return reference.startswith(prefix) or resource_type == (
            referenced_type(reference) or node.get("type")
        )

    return _only(points_there)
