"""Where in a resource's JSON an expression finds its values."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from helios_core.fhir.definitions import ElementDefinition
from helios_core.fhir.search.fhirpath import (
    As,
    Exists,
    Extended,
    Extension,
    FirstOf,
    Index,
    Is,
    Key,
    Path,
    Resolve,
    Step,
    Where,
)
from helios_core.fhir.search.walks import (
    DATA_TYPES,
    Link,
    Walk,
    capitalized,
    child,
    choice_child,
    collect,
    indexed_child,
    is_data_type,
    where_equals,
    where_extension,
    where_reference_type,
)


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """How to go on from the values of a root element; conditions are left out."""

    element: str
    below: str
    """Names the way: two branches of one element and one way find the same."""
    lead: Link
    """Makes the walk that hands each value it finds to the walk it is given."""


class CompiledPath(msgspec.Struct, frozen=True, kw_only=True):
    """Finds the values of one path; arrays on the way are walked through."""

    walk: Walk
    """Appends what it finds below its first argument to its second."""
    elements: frozenset[str]
    """The root elements it looks at; empty below a root."""
    types: frozenset[str] = frozenset()
    """The data types it can find; empty where the tables do not say."""
    target: str | None = None
    """The only resource type whose references count."""
    group: str = ""
    """Names the place, whatever the data type and conditions; empty where it is not one place."""
    branches: tuple[Branch, ...] = ()
    """The same search without conditions, cut behind the root; empty without a group."""


def compile_path(path: Path, elements: Mapping[str, ElementDefinition] | None) -> CompiledPath:
    """
    Compile a path. `elements` are those of the type it begins at, None inside of a type.

    Raises:
        ValueError: It leads into another resource, or to an element that the type does not have.
    """
    steps = path.steps
    if steps and isinstance(steps[-1], Exists):
        return _existence(_Compiled(steps[:-1], elements), not_false=steps[-1].not_false)
    if steps and isinstance(steps[0], FirstOf):
        return _first([compile_path(inner, elements) for inner in steps[0].paths], steps[1:])
    return _Compiled(steps, elements).finder()


def _existence(inner: "_Compiled", *, not_false: bool) -> CompiledPath:
    walk = inner.walk

    def tell(node: Any, out: list[Any]) -> None:  # noqa: ANN401 - decoded JSON
        below: list[Any] = []
        walk(node, below)
        out.append(any(value is not False for value in below) if not_false else bool(below))

    return CompiledPath(walk=tell, elements=inner.elements, types=frozenset({"boolean"}))


def _first(inner: Sequence[CompiledPath], steps: Sequence[Step]) -> CompiledPath:
    if steps:
        raise ValueError("nothing can follow the first of several")

    def walk(node: Any, out: list[Any]) -> None:  # noqa: ANN401 - decoded JSON
        for each in inner:
            below: list[Any] = []
            each.walk(node, below)
            if below:
                out.append(below[0])
                return

    return CompiledPath(walk=walk, elements=frozenset().union(*(each.elements for each in inner)))


def _joined(links: Sequence[Link]) -> Link:
    def link(rest: Walk) -> Walk:
        for each in reversed(links):
            rest = each(rest)
        return rest

    return link


class _Compiled:
    def __init__(
        self, steps: Sequence[Step], elements: Mapping[str, ElementDefinition] | None
    ) -> None:
        self._steps = list(steps)
        self._roots: tuple[str, ...] = ()
        self._names: list[str] = []
        self._types: frozenset[str] = frozenset()
        self._target: str | None = None
        self._indexed = elements is not None
        # Each with the name of its way, which only conditions lack.
        self._links: list[tuple[Link, str]] = []
        while self._steps:
            self._take(elements if not self._names else None)

    @property
    def elements(self) -> frozenset[str]:
        return frozenset(self._roots)

    @property
    def walk(self) -> Walk:
        return _joined([link for link, _ in self._links])(collect)

    def finder(self) -> CompiledPath:
        return CompiledPath(
            walk=self.walk,
            elements=self.elements,
            types=self._types,
            target=self._target,
            group=".".join(self._names) if self._indexed else "",
            branches=tuple(self._branches()) if self._indexed else (),
        )

    def _branches(self) -> Iterator[Branch]:
        below = [each for each in self._links[1:] if each[1]]
        lead = _joined([link for link, _ in below])
        for root in self._roots:
            yield Branch(element=root, below=".".join(way for _, way in below), lead=lead)

    def _take(self, elements: Mapping[str, ElementDefinition] | None) -> None:
        match self._steps.pop(0):
            case Key(name):
                self._go(name, elements)
            case Extension(url):
                self._go("extension", elements)
                self._names[-1] = f"extension({url})"
                self._links.append((where_equals("url", url), self._names[-1]))
            case Where(name, text):
                self._keep(where_equals(name, text))
            case Extended(url):
                self._keep(where_extension(url))
            case Is(target):
                self._target = target
                self._keep(where_reference_type(target))
            case Resolve():
                raise ValueError("it leads into another resource")
            case step:
                raise ValueError(f"cannot follow {type(step).__name__}")

    def _keep(self, link: Link) -> None:
        self._links.append((link, ""))

    def _go(self, name: str, elements: Mapping[str, ElementDefinition] | None) -> None:
        position, cast = self._position(), self._cast()
        resource_type = cast if cast and not is_data_type(cast) else None
        if resource_type:
            cast = None
        if elements is not None:
            self._roots, self._types = _root_names(name, cast, elements)
            names = self._roots
        else:
            names = (name + capitalized(cast),) if cast else (name,)
            self._types = frozenset({cast} if cast else ())
        self._names.append(name)
        if position is not None:
            self._links.append((indexed_child(names[0], position), f"{name}[{position}]"))
            self._indexed = False
        elif elements is None and cast is None and not self._goes_on():
            self._links.append((choice_child(name), f"{name}[x]"))
        else:
            self._links.append((child(names), "/".join(names)))
        if resource_type:
            self._keep(where_equals("resourceType", resource_type))

    def _goes_on(self) -> bool:
        return any(isinstance(step, Key | Extension) for step in self._steps)

    def _position(self) -> int | None:
        match self._steps[:1]:
            case [Index(position)]:
                del self._steps[0]
                return position
        return None

    def _cast(self) -> str | None:
        match self._steps[:1]:
            case [As(type_)]:
                del self._steps[0]
                return type_
        return None


def _root_names(
    name: str, cast: str | None, elements: Mapping[str, ElementDefinition]
) -> tuple[tuple[str, ...], frozenset[str]]:
    if name in elements:
        return (name,), frozenset({cast} if cast else elements[name].types)
    # R6 spells the elements of a choice out, the others say value[x].
    choice = elements.get(f"{name}[x]")
    types = [
        type_
        for type_ in (choice.types if choice else DATA_TYPES)
        if choice or name + capitalized(type_) in elements
    ]
    chosen = [type_ for type_ in types if cast in (None, type_, capitalized(type_))]
    if not chosen:
        raise ValueError(f"there is no element {name}{f' of type {cast}' if cast else ''}")
    return tuple(name + capitalized(type_) for type_ in chosen), frozenset(chosen)
