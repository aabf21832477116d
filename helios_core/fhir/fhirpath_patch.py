"""FHIRPath Patch (FHIR R4, fhirpatch.html): operations on elements that paths select."""

from collections.abc import Mapping
from typing import Final

import msgspec

from helios_core.errors import InvalidResource, PatchFailed
from helios_core.fhir import json_trees
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.json_trees import Misfit, Node
from helios_core.fhir.patch_paths import PatchDocument, named_child
from helios_core.fhir.strict_json import compact_json, object_members

MAX_OPERATIONS: Final = 10_000
_TYPES = frozenset({"add", "insert", "delete", "replace", "move"})
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """The value of an operation."""

    suffix: str = ""
    """What follows `value` in the name of the parameter's member: `Quantity`."""
    raw: msgspec.Raw | None = None
    """None if the value is of an anonymous type, such as a backbone element; it has parts then."""
    parts: "tuple[tuple[str, Value], ...]" = ()
    """Child elements by name."""

    def node(self, shapes: Mapping[str, Mapping[str, str]], type_: str) -> Node:
        """Return the value as an element of a type or path."""
        if self.raw is not None:
            return self.raw
        members: dict[str, Node] = {}
        children = shapes.get(type_, {})
        for name, part in self.parts:
            json_name, child = named_child(children, name, part.suffix)
            node = part.node(shapes, child.removesuffix("*"))
            if child.endswith("*"):
                items = members.setdefault(json_name, [])
                assert isinstance(items, list)  # noqa: S101 - a child with this name repeats
                items.append(node)
            elif json_name in members:
                raise Misfit("a part occurs twice, but its element does not repeat")
            else:
                members[json_name] = node
        return members


class FHIRPathPatchOperation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation; indexes count from 0."""

    type: str
    path: str
    name: str = ""
    """The name of the element that `add` adds."""
    value: Value | None = None
    """Present for add, insert and replace."""
    index: int = 0
    """Where `insert` inserts."""
    source: int = 0
    """Where `move` takes an item."""
    destination: int = 0
    """Where `move` puts it."""


class FHIRPathPatch(msgspec.Struct, frozen=True):
    """A parsed FHIRPath Patch."""

    operations: tuple[FHIRPathPatchOperation, ...]

    def apply(self, content: bytes, version: FHIRVersion) -> bytes:
        """
        Return JSON with all operations applied, in their order.

        Raises:
            PatchFailed: An operation cannot be applied; the message has its number.
            TooCostly: The paths visit too many elements.
        """
        document = PatchDocument(content, version)
        for index, operation in enumerate(self.operations):
            try:
                _apply(document, operation)
            except Misfit as error:
                raise PatchFailed(
                    f"operation {index} ({operation.type}) of the patch fails: {error}"
                ) from error
            except RecursionError as error:
                raise PatchFailed(
                    f"operation {index} of the patch fails: the resource is nested too deeply"
                ) from error
        return document.encoded()


def _apply(document: PatchDocument, operation: FHIRPathPatchOperation) -> None:
    match operation.type:
        case "add":
            _add(document, operation)
        case "insert":
            items, child = document.array(operation.path, create=True)
            if operation.index > len(items):
                raise Misfit("the index is behind the end of the list")
            items.insert(operation.index, _node(document, operation, child))
        case "delete":
            if (location := document.locate(operation.path, absent=True)) is not None:
                if location.owner is document.root:
                    raise Misfit("the path selects the resource itself; send a DELETE")
                location.remove()
        case "replace":
            _replace(document, operation)
        case _:
            items, _ = document.array(operation.path)
            if max(operation.source, operation.destination) >= len(items):
                raise Misfit("source or destination is behind the end of the list")
            items.insert(operation.destination, items.pop(operation.source))


def _add(document: PatchDocument, operation: FHIRPathPatchOperation) -> None:
    parent = document.require(operation.path)
    node = parent.node
    if not isinstance(node, dict):
        raise Misfit("the path selects a value that has no elements")
    suffix = operation.value.suffix if operation.value else ""
    name, child = named_child(document.children(parent.type, node), operation.name, suffix)
    if child.endswith("*"):
        json_trees.child(node, name) if name in node else node.update({name: []})
        items = node[name]
        if not isinstance(items, list):
            raise Misfit("the element repeats, but is stored as one value")
        items.append(_node(document, operation, child))
    elif name in node or (name != operation.name and document.choices(node, operation.name)):
        raise Misfit("the element is there already and does not repeat; replace it")
    else:
        node[name] = _node(document, operation, child)


def _replace(document: PatchDocument, operation: FHIRPathPatchOperation) -> None:
    location = document.require(operation.path)
    value = _node(document, operation, location.type)
    if location.choice and operation.value is not None and operation.value.suffix:
        location.remove()
        location.owner[location.choice + operation.value.suffix] = value
    else:
        location.replace(value)


def _node(document: PatchDocument, operation: FHIRPathPatchOperation, type_: str) -> Node:
    assert operation.value is not None  # noqa: S101 - parsing requires it
    return operation.value.node(document.shapes, type_.removesuffix("*"))


def parse_fhirpath_patch(body: bytes) -> FHIRPathPatch:
    """
    Parse a FHIRPath Patch.

    Raises:
        InvalidResource: It is not a Parameters resource of at most MAX_OPERATIONS operations.
    """
    members = object_members(compact_json(body))
    if _text(members.get("resourceType")) != "Parameters":
        raise InvalidResource("a FHIRPath Patch must be a Parameters resource")
    items = _items(members.get("parameter"))
    if len(items) > MAX_OPERATIONS:
        raise InvalidResource(f"a patch may have at most {MAX_OPERATIONS} operations")
    return FHIRPathPatch(tuple(_operation(index, item) for index, item in enumerate(items)))


def _operation(index: int, item: msgspec.Raw) -> FHIRPathPatchOperation:
    members = object_members(item)
    if _text(members.get("name")) != "operation":
        raise InvalidResource("every parameter of a FHIRPath Patch must be named operation")
    parts = dict[str, msgspec.Raw]()
    for part in _items(members.get("part")):
        parts[_text(object_members(part).get("name"))] = part
    type_, path = _text(_first_value(parts, "type")), _text(_first_value(parts, "path"))
    needed = {
        "add": {"name", "value"},
        "insert": {"index", "value"},
        "replace": {"value"},
        "move": {"source", "destination"},
    }
    missing = needed.get(type_, set()) - set(parts)
    if type_ not in _TYPES or not path or missing:
        raise InvalidResource(
            f"operation {index} of the patch needs type (add, insert, delete, replace or move) "
            f"and path{''.join(f', {name}' for name in sorted(missing))}"
        )
    return FHIRPathPatchOperation(
        type=type_,
        path=path,
        name=_text(_first_value(parts, "name")),
        value=_value(parts["value"]) if "value" in parts else None,
        index=_number(index, parts, "index"),
        source=_number(index, parts, "source"),
        destination=_number(index, parts, "destination"),
    )


def _first_value(parts: Mapping[str, msgspec.Raw], name: str) -> msgspec.Raw | None:
    members = object_members(parts[name]) if name in parts else {}
    return next((raw for key, raw in members.items() if key.startswith("value")), None)


def _value(part: msgspec.Raw) -> Value:
    members = object_members(part)
    for name, raw in members.items():
        if name.startswith("value"):
            return Value(suffix=name.removeprefix("value"), raw=raw)
    if "resource" in members:
        return Value(raw=members["resource"])
    parts = [
        (_text(object_members(item).get("name")), item) for item in _items(members.get("part"))
    ]
    if not parts:
        raise InvalidResource("a value of the patch has neither value[x], resource nor part")
    return Value(parts=tuple((name, _value(item)) for name, item in parts))


def _items(raw: msgspec.Raw | None) -> list[msgspec.Raw]:
    try:
        return _ITEMS.decode(b"[]" if raw is None else raw)
    except msgspec.DecodeError as error:
        raise InvalidResource("parameter and part of a FHIRPath Patch must be arrays") from error


def _text(raw: msgspec.Raw | None) -> str:
    """Return a string, empty if there is none."""
    try:
        return msgspec.json.decode(b'""' if raw is None else raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidResource(
            "resourceType, name, type and path of a FHIRPath Patch must be strings"
        ) from error


def _number(index: int, parts: Mapping[str, msgspec.Raw], name: str) -> int:
    raw = _first_value(parts, name)
    text = b"0" if raw is None else bytes(raw)
    if not text.isdigit() or len(text) > 9:  # noqa: PLR2004 - longer numbers are no indexes
        raise InvalidResource(
            f"operation {index} of the patch: {name} must be a whole number from 0"
        )
    return int(text)
