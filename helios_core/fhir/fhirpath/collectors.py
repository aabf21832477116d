"""
Collect values from decoded JSON, one step of a path at a time.

A collector takes a node and an output, mostly a list, and appends to the output every value that
the rest of a path selects below the node. A compiled step takes the collector for the rest of a
path and returns the collector that starts one step earlier.
"""

from collections.abc import Callable, Sequence
from typing import Any

from helios_core.fhir.data_types import CHOICE_SUFFIXES
from helios_core.fhir.references import referenced_type

Collector = Callable[[Any, Any], None]
CompiledStep = Callable[[Collector], Collector]


def append(node: Any, out: Any) -> None:  # noqa: ANN401 - decoded JSON
    """End a path: the node itself is a selected value."""
    out.append(node)


def join_steps(steps: Sequence[CompiledStep]) -> CompiledStep:
    """Return one step that performs several, in their order."""

    def joined(rest: Collector) -> Collector:
        for step in reversed(steps):
            rest = step(rest)
        return rest

    return joined


def child(names: tuple[str, ...]) -> CompiledStep:
    """Select the child elements with any of these names."""
    return _any_child(names) if len(names) > 1 else _child(names[0])


def _child(name: str) -> CompiledStep:
    def step(rest: Collector) -> Collector:
        def collect(node: Any, out: Any) -> None:  # noqa: ANN401 - decoded JSON
            if type(node) is dict:
                collect_items(node.get(name), out, rest)

        return collect

    return step


def _any_child(names: tuple[str, ...]) -> CompiledStep:
    def step(rest: Collector) -> Collector:
        def collect(node: Any, out: Any) -> None:  # noqa: ANN401 - decoded JSON
            if type(node) is dict:
                for name in names:
                    collect_items(node.get(name), out, rest)

        return collect

    return step


def choice_child(name: str) -> CompiledStep:
    """
    Select the child elements with this name, or if there are none, the choice `name[x]`.

    The definitions list the choices at the root of a resource only; deeper ones are recognised by
    the data type at the end of the name.
    """

    def step(rest: Collector) -> Collector:
        def collect(node: Any, out: Any) -> None:  # noqa: ANN401 - decoded JSON
            if type(node) is not dict:
                return
            if name in node:
                collect_items(node[name], out, rest)
                return
            for key in node:
                if key.startswith(name) and key[len(name) :] in CHOICE_SUFFIXES:
                    collect_items(node[key], out, rest)

        return collect

    return step


def indexed_child(name: str, position: int) -> CompiledStep:
    """Select one of the child elements with this name, counted from 0."""

    def step(rest: Collector) -> Collector:
        def collect(node: Any, out: Any) -> None:  # noqa: ANN401 - decoded JSON
            items: list[Any] = []
            if type(node) is dict:
                collect_items(node.get(name), items, append)
            if len(items) > position:
                rest(items[position], out)

        return collect

    return step


def collect_items(value: Any, out: Any, rest: Collector) -> None:  # noqa: ANN401 - decoded JSON
    """Continue with a value, or with each item of an array; null counts as absent."""
    if value is None:
        return
    if type(value) is list:
        for item in value:
            if item is not None:
                rest(item, out)
    else:
        rest(value, out)


def _where(condition: Callable[[Any], bool]) -> CompiledStep:
    def step(rest: Collector) -> Collector:
        def collect(node: Any, out: Any) -> None:  # noqa: ANN401 - decoded JSON
            if condition(node):
                rest(node, out)

        return collect

    return step


def where_equals(name: str, text: str) -> CompiledStep:
    """Keep objects with a member equal to this text."""
    return _where(lambda node: type(node) is dict and node.get(name) == text)


def where_extension(url: str) -> CompiledStep:
    """Keep objects that carry an extension with this URL."""
    return _where(lambda node: url in _extension_urls(node))


def _extension_urls(node: Any) -> list[Any]:  # noqa: ANN401 - decoded JSON
    urls: list[Any] = []
    _COLLECT_EXTENSION_URLS(node, urls)
    return urls


_COLLECT_EXTENSION_URLS = _child("extension")(_child("url")(append))


def where_reference_type(resource_type: str) -> CompiledStep:
    """Keep references whose text, or else whose `type` element, names this resource type."""
    prefix = f"{resource_type}/"

    def names_type(node: Any) -> bool:  # noqa: ANN401 - decoded JSON
        if type(node) is not dict:
            return False
        reference = node.get("reference")
        if type(reference) is not str:
            return bool(node.get("type") == resource_type)
        return reference.startswith(prefix) or resource_type == (
            referenced_type(reference) or node.get("type")
        )

    return _where(names_type)
