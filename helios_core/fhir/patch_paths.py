"""The paths of a FHIRPath Patch (FHIR R4, fhirpatch.html): which element one selects."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from helios_core.errors import TooCostly
from helios_core.fhir import json_trees
from helios_core.fhir.data_types import CHOICE_SUFFIXES
from helios_core.fhir.definitions import FHIRVersion, load_shapes
from helios_core.fhir.json_trees import Misfit, Node

MAX_EFFORT: Final = 2_000_000
"""The maximum number of elements that the paths of one patch may visit; that takes seconds."""
_COMPARED_BYTES: Final = 100
"""The number of bytes whose comparison takes as long as a visit of one element."""

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


class PatchDocument:
    """A resource, and the elements that paths select in it."""

    def __init__(self, content: bytes, version: FHIRVersion) -> None:
        root = json_trees.expand(msgspec.Raw(content))
        assert isinstance(root, dict)  # noqa: S101 - a stored resource is an object
        self.root: dict[str, Node] = {"": root}
        """The owner of the resource itself, so that it is located as its elements are."""
        self._type = str(json_trees.decode(root["resourceType"]))
        self.shapes = load_shapes(version)
        """The elements of each type of its FHIR version, by name."""
        self._effort = Effort()

    def encoded(self) -> bytes:
        """Return the JSON of the resource, without empty objects and arrays."""
        json_trees.prune(self.root)
        return json_trees.encode(self.root[""])

    def array(self, path: str, *, create: bool = False) -> tuple[list[Node], str]:
        """Return the array that a path ends in, and the type of its items."""
        parent_path, _, name = path.rpartition(".")
        if not name.isidentifier():
            raise Misfit("the path does not end in the name of a list")
        parent = self.require(parent_path)
        node = parent.node
        if not isinstance(node, dict):
            raise Misfit("the path selects a value that has no elements")
        child = self.children(parent.type, node).get(name, "")
        if name not in node and create and child.endswith("*"):
            node[name] = []
        if name not in node or not isinstance(items := json_trees.child(node, name), list):
            raise Misfit("the path does not select a list")
        if f"_{name}" in node:
            raise Misfit("the list has extensions of its items; replace it as a whole")
        return items, child

    def children(self, type_: str, node: dict[str, Node]) -> Mapping[str, str]:
        """Return the elements of a type by their JSON names, with their types."""
        if type_ in {"Resource", ""} and "resourceType" in node:
            type_ = str(json_trees.decode(node["resourceType"]))
        return self.shapes.get(type_, {})

    def require(self, path: str) -> Location:
        """
        Return the one element that a path selects.

        Raises:
            Misfit: The path selects no element or several, or is not a path of a patch.
        """
        location = self.locate(path)
        if location is None:
            raise Misfit("the path selects nothing")
        return location

    def locate(self, path: str, *, absent: bool = False) -> Location | None:
        """
        Return the one element that a path selects, or None if it selects none.

        Raises:
            Misfit: The path selects several elements, or none although `absent` is false.
        """
        locations = [Location(owner=self.root, name="", index=None, type=self._type)]
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
        children = self.children(location.type, node)
        names = [name] if name in node else self.choices(node, name)
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

    def choices(self, node: Mapping[str, Node], name: str) -> list[str]:
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
