"""Compile a path into a function that collects its values from decoded JSON."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from helios_core.fhir.data_types import DATA_TYPES, choice_suffix, is_data_type
from helios_core.fhir.definitions import ElementDefinition
from helios_core.fhir.fhirpath.collectors import (
    Collector,
    CompiledStep,
    append,
    child,
    choice_child,
    indexed_child,
    join_steps,
    where_equals,
    where_extension,
    where_reference_type,
)
from helios_core.fhir.fhirpath.parser import (
    As,
    Child,
    Exists,
    Extension,
    FirstOf,
    HasExtension,
    Index,
    Is,
    Path,
    Resolve,
    Step,
    Where,
)


class IndexedPath(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled path for the index: without its conditions, split after the root element."""

    element: str
    """The root element at which the path begins."""
    below: str
    """The names of `steps`; two paths with the same element and names select the same values."""
    steps: CompiledStep
    """The steps below the element."""


class CompiledPath(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled path; at an array it continues with each item."""

    collect: Collector
    """Appends the values below its first argument to its second."""
    elements: frozenset[str]
    """The root elements the path reads; empty if it begins below the root."""
    types: frozenset[str] = frozenset()
    """The data types its values can have; empty if the definitions do not say."""
    target: str | None = None
    """The only resource type whose references are kept; None if the path has no such condition."""
    group: str = ""
    """
    The dotted element names, without data types and conditions; empty if the path is not indexed.

    Paths with the same names share a group of the index.
    """
    indexed: tuple[IndexedPath, ...] = ()
    """The path for each of `elements`; empty if the path is not indexed."""


def compile_path(path: Path, elements: Mapping[str, ElementDefinition] | None) -> CompiledPath:
    """
    Compile a path.

    `elements` are those of the resource type at which the path begins, or None if it begins below
    the root.

    Raises:
        ValueError: The path leads into another resource, or to an element the type does not have.
    """
    steps = path.steps
    if steps and isinstance(steps[-1], Exists):
        return _compile_exists(_Compiler(steps[:-1], elements), not_false=steps[-1].not_false)
    if steps and isinstance(steps[0], FirstOf):
        paths = [compile_path(inner, elements) for inner in steps[0].paths]
        return _compile_first(paths, steps[1:])
    return _Compiler(steps, elements).compiled_path()


def _compile_exists(inner: "_Compiler", *, not_false: bool) -> CompiledPath:
    collect_inner = inner.collect

    def collect(node: Any, out: list[Any]) -> None:  # noqa: ANN401 - decoded JSON
        values: list[Any] = []
        collect_inner(node, values)
        out.append(any(value is not False for value in values) if not_false else bool(values))

    return CompiledPath(collect=collect, elements=inner.elements, types=frozenset({"boolean"}))


def _compile_first(paths: Sequence[CompiledPath], later: Sequence[Step]) -> CompiledPath:
    if later:
        raise ValueError("no step may follow first()")

    def collect(node: Any, out: list[Any]) -> None:  # noqa: ANN401 - decoded JSON
        for path in paths:
            values: list[Any] = []
            path.collect(node, values)
            if values:
                out.append(values[0])
                return

    elements = frozenset[str]().union(*(path.elements for path in paths))
    return CompiledPath(collect=collect, elements=elements)


class _Compiler:
    """Compiles the steps of one path, in their order."""

    def __init__(
        self, steps: Sequence[Step], elements: Mapping[str, ElementDefinition] | None
    ) -> None:
        self._steps = list(steps)
        self._roots: tuple[str, ...] = ()
        self._names: list[str] = []
        self._types: frozenset[str] = frozenset()
        self._target: str | None = None
        self._indexed = elements is not None
        # Each compiled step with its name; conditions have none.
        self._compiled: list[tuple[CompiledStep, str]] = []
        while self._steps:
            self._compile_step(elements if not self._names else None)

    @property
    def elements(self) -> frozenset[str]:
        return frozenset(self._roots)

    @property
    def collect(self) -> Collector:
        return join_steps([step for step, _ in self._compiled])(append)

    def compiled_path(self) -> CompiledPath:
        return CompiledPath(
            collect=self.collect,
            elements=self.elements,
            types=self._types,
            target=self._target,
            group=".".join(self._names) if self._indexed else "",
            indexed=tuple(self._indexed_paths()) if self._indexed else (),
        )

    def _indexed_paths(self) -> Iterator[IndexedPath]:
        named = [(step, name) for step, name in self._compiled[1:] if name]
        below = ".".join(name for _, name in named)
        steps = join_steps([step for step, _ in named])
        for root in self._roots:
            yield IndexedPath(element=root, below=below, steps=steps)

    def _compile_step(self, elements: Mapping[str, ElementDefinition] | None) -> None:
        match self._steps.pop(0):
            case Child(name):
                self._add_child(name, elements)
            case Extension(url):
                self._add_child("extension", elements)
                self._names[-1] = f"extension({url})"
                self._compiled.append((where_equals("url", url), self._names[-1]))
            case Where(name, text):
                self._add_condition(where_equals(name, text))
            case HasExtension(url):
                self._add_condition(where_extension(url))
            case Is(target):
                self._target = target
                self._add_condition(where_reference_type(target))
            case Resolve():
                raise ValueError("it leads into another resource")
            case step:
                raise ValueError(f"the FHIRPath step {type(step).__name__} is not supported there")

    def _add_condition(self, step: CompiledStep) -> None:
        self._compiled.append((step, ""))

    def _add_child(self, name: str, elements: Mapping[str, ElementDefinition] | None) -> None:
        position, cast = self._pop_index(), self._pop_cast()
        resource_type = cast if cast and not is_data_type(cast) else None
        if resource_type:
            cast = None
        if elements is not None:
            self._roots, self._types = _root_elements(name, cast, elements)
            names = self._roots
        else:
            names = (name + choice_suffix(cast),) if cast else (name,)
            self._types = frozenset({cast} if cast else ())
        self._names.append(name)
        if position is not None:
            self._compiled.append((indexed_child(names[0], position), f"{name}[{position}]"))
            self._indexed = False
        elif elements is None and cast is None and not self._has_more_elements():
            self._compiled.append((choice_child(name), f"{name}[x]"))
        else:
            self._compiled.append((child(names), "/".join(names)))
        if resource_type:
            self._add_condition(where_equals("resourceType", resource_type))

    def _has_more_elements(self) -> bool:
        return any(isinstance(step, Child | Extension) for step in self._steps)

    def _pop_index(self) -> int | None:
        match self._steps[:1]:
            case [Index(position)]:
                del self._steps[0]
                return position
        return None

    def _pop_cast(self) -> str | None:
        match self._steps[:1]:
            case [As(type_)]:
                del self._steps[0]
                return type_
        return None


def _root_elements(
    name: str, cast: str | None, elements: Mapping[str, ElementDefinition]
) -> tuple[tuple[str, ...], frozenset[str]]:
    """
    Return the JSON names of a root element and the data types it can have.

    Raises:
        ValueError: The resource type has no such element, or not of the type of the cast.
    """
    if name in elements:
        return (name,), frozenset({cast} if cast else elements[name].types)
    # Definitions of R6 list valueQuantity and so on, those of other versions value[x].
    choice = elements.get(f"{name}[x]")
    types = [
        type_
        for type_ in (choice.types if choice else DATA_TYPES)
        if choice or name + choice_suffix(type_) in elements
    ]
    cast_types = [type_ for type_ in types if cast in (None, type_, choice_suffix(type_))]
    if not cast_types:
        raise ValueError(f"there is no element {name}{f' of type {cast}' if cast else ''}")
    return tuple(name + choice_suffix(type_) for type_ in cast_types), frozenset(cast_types)
