"""FHIRPath Patch (FHIR R4, fhirpatch.html): operations on elements that paths select."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from helios_core.errors import InvalidResource, PatchFailed, TooCostly
from helios_core.fhir import json_trees
from helios_core.fhir.data_types import CHOICE_SUFFIXES
from helios_core.fhir.definitions import FHIRVersion, load_shapes
from helios_core.fhir.json_trees import Misfit, Node
from helios_core.fhir.strict_json import compact_json, object_members

MAX_OPERATIONS: Final = 10_000
MAX_EFFORT: Final = 2_000_000
"""The maximum number of elements that the paths of one patch may visit; that takes seconds."""
_COMPARED_BYTES: Final = 100
"""The number of bytes whose comparison takes as long as a visit of one element."""

_TYPES = frozenset({"add", "insert", "delete", "replace", "move"})
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = r"'(?:[^'\\]|\\.)*'"
_STEP = re.compile(
    rf"""\.?(?:
    (?P<function>where|extension|ofType|first|last)\((?P<argument>(?:{_TEXT}|[^'()])*)\)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*|`[^`]+`)
    |\[(?P<index>\d{{1,9}})\]
    )\s*""",
    re.VERBOSE,
)
_CONDITION = re.compile(
    rf"\s*([A-Za-z][A-Za-z0-9.]*)\s*=\s*({_TEXT}|true|false|-?\d+(?:\.\d+)?)\s*"
)
_AND = re.compile(r"\s*and\s*")
_ESCAPE = re.compile(r"\\(.)")


class Effort:
    """
    The number of elements that the paths of one patch have visited.

    A path can visit a whole resource, so that a small patch could otherwise take hours.
    """

    def __init__(self) -> None:
        self._spent = 0

    def spend(self, elements: int, *, compared: int = 0) -> None:
        """
        Add visited elements, and the bytes that were decoded to compare them.

        Raises:
            TooCostly: The sum exceeds MAX_EFFORT.
        """
        self._spent += elements + compared // _COMPARED_BYTES
        if self._spent > MAX_EFFORT:
            raise TooCostly(
                "The paths of the patch look at too much of the resource; send fewer operations "
                "at a time, or a JSON Patch."
            )


class Location(msgspec.Struct, frozen=True, kw_only=True):
    """The location of an element: a member of an object, or an item of a member that repeats."""

    owner: dict[str, Node]
    name: str
    index: int | None
    type: str
    """The type or path of the element in the tables of `load_shapes`; empty if unknown."""
    choice: str = ""
    """The name of the element without its type, if it is a choice."""

    @property
    def items(self) -> list[Node]:
        """The array that contains the element; `index` must not be None."""
        node = self.owner[self.name]
        assert isinstance(node, list)  # noqa: S101 - it was expanded when it was located
        return node

    @property
    def node(self) -> Node:
        """The element."""
        if self.index is None:
            return json_trees.child(self.owner, self.name)
        return json_trees.child(self.items, self.index)

    def remove(self) -> None:
        """Remove the element with the id and extensions of a primitive, stored under `_name`."""
        if self.index is None:
            self.owner.pop(self.name, None)
            self.owner.pop(f"_{self.name}", None)
            return
        del self.items[self.index]
        if f"_{self.name}" in self.owner:
            extras = json_trees.child(self.owner, f"_{self.name}")
            if isinstance(extras, list) and self.index < len(extras):
                del extras[self.index]

    def replace(self, value: Node) -> None:
        """Replace the value; the id and extensions of a primitive, under `_name`, are removed."""
        if self.index is None:
            self.owner[self.name] = value
            self.owner.pop(f"_{self.name}", None)
            return
        self.items[self.index] = value
        if f"_{self.name}" in self.owner:
            extras = json_trees.child(self.owner, f"_{self.name}")
            if isinstance(extras, list) and self.index < len(extras):
                extras[self.index] = msgspec.Raw(b"null")


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
        document = _Document(content, version)
        for index, operation in enumerate(self.operations):
            try:
                document.apply(operation)
            except Misfit as error:
                raise PatchFailed(
                    f"operation {index} ({operation.type}) of the patch fails: {error}"
                ) from error
            except RecursionError as error:
                raise PatchFailed(
                    f"operation {index} of the patch fails: the resource is nested too deeply"
                ) from error
        return document.encoded()


class _Document:
    """A resource that operations are applied to."""

    def __init__(self, content: bytes, version: FHIRVersion) -> None:
        root = json_trees.expand(msgspec.Raw(content))
        assert isinstance(root, dict)  # noqa: S101 - a stored resource is an object
        self._root: dict[str, Node] = {"": root}
        self._type = str(json_trees.decode(root["resourceType"]))
        self._shapes = load_shapes(version)
        self._effort = Effort()

    def encoded(self) -> bytes:
        json_trees.prune(self._root)
        return json_trees.encode(self._root[""])

    def apply(self, operation: FHIRPathPatchOperation) -> None:
        match operation.type:
            case "add":
                self._add(operation)
            case "insert":
                items, child = self._array(operation.path, create=True)
                if operation.index > len(items):
                    raise Misfit("the index is behind the end of the list")
                items.insert(operation.index, self._node(operation, child))
            case "delete":
                if (location := self._locate(operation.path, absent=True)) is not None:
                    if location.owner is self._root:
                        raise Misfit("the path selects the resource itself; send a DELETE")
                    location.remove()
            case "replace":
                self._replace(operation)
            case _:
                items, _ = self._array(operation.path)
                if max(operation.source, operation.destination) >= len(items):
                    raise Misfit("source or destination is behind the end of the list")
                items.insert(operation.destination, items.pop(operation.source))

    def _add(self, operation: FHIRPathPatchOperation) -> None:
        parent = self._require(operation.path)
        node = parent.node
        if not isinstance(node, dict):
            raise Misfit("the path selects a value that has no elements")
        suffix = operation.value.suffix if operation.value else ""
        name, child = named_child(self._children(parent.type, node), operation.name, suffix)
        if child.endswith("*"):
            json_trees.child(node, name) if name in node else node.update({name: []})
            items = node[name]
            if not isinstance(items, list):
                raise Misfit("the element repeats, but is stored as one value")
            items.append(self._node(operation, child))
        elif name in node or (name != operation.name and self._choices(node, operation.name)):
            raise Misfit("the element is there already and does not repeat; replace it")
        else:
            node[name] = self._node(operation, child)

    def _replace(self, operation: FHIRPathPatchOperation) -> None:
        location = self._require(operation.path)
        value = self._node(operation, location.type)
        if location.choice and operation.value is not None and operation.value.suffix:
            location.remove()
            location.owner[location.choice + operation.value.suffix] = value
        else:
            location.replace(value)

    def _node(self, operation: FHIRPathPatchOperation, type_: str) -> Node:
        assert operation.value is not None  # noqa: S101 - parsing requires it
        return operation.value.node(self._shapes, type_.removesuffix("*"))

    def _array(self, path: str, *, create: bool = False) -> tuple[list[Node], str]:
        """Return the array that a path ends in, and the type of its items."""
        parent_path, _, name = path.rpartition(".")
        if not name.isidentifier():
            raise Misfit("the path does not end in the name of a list")
        parent = self._require(parent_path)
        node = parent.node
        if not isinstance(node, dict):
            raise Misfit("the path selects a value that has no elements")
        child = self._children(parent.type, node).get(name, "")
        if name not in node and create and child.endswith("*"):
            node[name] = []
        if name not in node or not isinstance(items := json_trees.child(node, name), list):
            raise Misfit("the path does not select a list")
        if f"_{name}" in node:
            raise Misfit("the list has extensions of its items; replace it as a whole")
        return items, child

    def _children(self, type_: str, node: dict[str, Node]) -> Mapping[str, str]:
        if type_ in {"Resource", ""} and "resourceType" in node:
            type_ = str(json_trees.decode(node["resourceType"]))
        return self._shapes.get(type_, {})

    def _require(self, path: str) -> Location:
        location = self._locate(path)
        if location is None:
            raise Misfit("the path selects nothing")
        return location

    def _locate(self, path: str, *, absent: bool = False) -> Location | None:
        """
        Return the one element that a path selects, or None if it selects none.

        Raises:
            Misfit: The path selects several elements, or none although `absent` is false.
        """
        locations = [Location(owner=self._root, name="", index=None, type=self._type)]
        position, first = 0, True
        path = path.strip()
        while position < len(path):
            step = _STEP.match(path, position)
            if step is None or (first == step[0].startswith(".") and not step["index"]):
                raise Misfit(
                    "its path may only consist of names, indexes, where(), extension(), ofType(), "
                    "first() and last()"
                )
            position = step.end()
            if not (first and step["name"] in {self._type, "Resource", "DomainResource"}):
                locations = self._step(locations, step)
            first = False
        if len(locations) > 1:
            raise Misfit("the path selects more than one element")
        if not locations and not absent:
            raise Misfit("the path selects nothing")
        return next(iter(locations), None)

    def _step(self, locations: list[Location], step: re.Match[str]) -> list[Location]:
        self._effort.spend(len(locations))
        if step["index"] is not None:
            return locations[int(step["index"]) :][:1]
        if step["name"] is not None:
            return self._all_members(locations, step["name"].strip("`"))
        argument = step["argument"].strip()
        match step["function"]:
            case "first":
                selected = locations[:1]
            case "last":
                selected = locations[-1:]
            case "ofType":
                selected = [location for location in locations if _is_type(location, argument)]
            case "extension":
                url = _literal(argument)
                extensions = self._all_members(locations, "extension")
                selected = [item for item in extensions if self._member(item, ["url"]) == url]
            case _:
                selected = list(filter(self._test(argument), locations))
        return selected

    def _all_members(self, locations: list[Location], name: str) -> list[Location]:
        return [member for location in locations for member in self._members(location, name)]

    def _members(self, location: Location, name: str) -> Iterator[Location]:
        node = location.node
        if not isinstance(node, dict):
            return
        children = self._children(location.type, node)
        names = [name] if name in node else self._choices(node, name)
        for json_name in names:
            type_ = "Extension*" if name in {"extension", "modifierExtension"} else ""
            type_ = "Resource*" if name == "contained" else type_
            type_ = (type_ or children.get(json_name, "")).removesuffix("*")
            choice = name if json_name != name else ""
            value = json_trees.child(node, json_name)
            indexes = range(len(value)) if isinstance(value, list) else (None,)
            self._effort.spend(len(indexes))
            for index in indexes:
                yield Location(owner=node, name=json_name, index=index, type=type_, choice=choice)

    def _choices(self, node: Mapping[str, Node], name: str) -> list[str]:
        """Return the stored JSON names of a choice; a valid resource has at most one."""
        self._effort.spend(len(node))
        return [
            member
            for member in node
            if member.startswith(name) and member[len(name) :] in CHOICE_SUFFIXES
        ]

    def _member(self, location: Location, names: list[str]) -> Any:  # noqa: ANN401 - decoded JSON
        """Return the value below an element at a path of names, None unless there is just one."""
        text = json_trees.encode(location.node)
        self._effort.spend(1, compared=len(text))
        value = json_trees.decode(msgspec.Raw(text))
        for name in names:
            while isinstance(value, list) and len(value) == 1:
                value = value[0]
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def _test(self, condition: str) -> Callable[[Location], bool]:
        """Return the test of a `where()`."""
        tests: list[tuple[list[str], Any]] = []
        position = 0
        while match := _CONDITION.match(condition, position):
            tests.append((match[1].split("."), _literal(match[2])))
            position = match.end()
            if more := _AND.match(condition, position):
                position = more.end()
        if not tests or position != len(condition):
            raise Misfit("where() needs comparisons such as system = 'x', joined by and")

        def passes(location: Location) -> bool:
            return all(_same(self._member(location, names), value) for names, value in tests)

        return passes


def named_child(children: Mapping[str, str], name: str, suffix: str) -> tuple[str, str]:
    """
    Return the JSON name of a child and its entry in the tables; `suffix` is that of its value.

    Raises:
        Misfit: The name is not valid, or that of a choice and there is no suffix.
    """
    if name in {"extension", "modifierExtension"}:
        return name, "Extension*"
    if name == "contained":
        return name, "Resource*"
    choice = name.removesuffix("[x]")
    if f"{choice}[x]" in children:
        if not suffix:
            raise Misfit("the element is a choice; send a value of one of its types")
        return choice + suffix, children.get(choice + suffix, "")
    if not name.isidentifier():
        raise Misfit("the name is not the name of an element")
    return name, children.get(name, "")


def _is_type(location: Location, type_: str) -> bool:
    type_ = type_.rpartition(".")[2]
    suffix = location.name.removeprefix(location.choice) if location.choice else location.type
    return suffix.casefold() == type_.casefold()


def _same(first: Any, second: Any) -> bool:  # noqa: ANN401 - decoded JSON
    return isinstance(first, bool) == isinstance(second, bool) and first == second


def _literal(text: str) -> Any:  # noqa: ANN401 - decoded JSON
    if text.startswith("'") and text.endswith("'") and len(text) > 1:
        return _ESCAPE.sub(r"\1", text[1:-1])
    if text.startswith("'") or not text:
        raise Misfit("a text in the path must be in single quotes")
    try:
        return json_trees.decode(msgspec.Raw(text.encode()))
    except msgspec.DecodeError as error:
        raise Misfit("a value in the path is neither a text, a number nor a boolean") from error


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
