"""What can be searched: the published parameters of a type, compiled, or why they cannot be."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache

import msgspec

from helios_core.errors import InvalidParameter, UnsupportedParameter
from helios_core.fhir.definitions import (
    Definitions,
    FHIRVersion,
    SearchParameter,
    load_definitions,
)
from helios_core.fhir.search.fhirpath import Path, parse_expression
from helios_core.fhir.search.paths import CompiledPath, compile_path

_EVERY_TYPE = frozenset({"Resource", "DomainResource"})
_SEARCHED = frozenset(
    {"token", "string", "date", "number", "quantity", "reference", "uri", "composite"}
)
NOT_INDEXED = frozenset({"_id", "_lastUpdated", "_profile"})
"""A store has id and instant at hand anyway, and the profiles of its resources are all alike."""

_REFUSED = {
    "_content": "full-text search is not implemented",
    "_text": "full-text search is not implemented",
    "_filter": "the _filter language is not implemented",
    "_has": "it is asked as _has:Type:reference:code",
    "_in": "membership of lists and groups is not implemented",
    "_list": "membership of lists and groups is not implemented",
    "_query": "there are no named queries",
    "_type": "a search is of one type",
    "phonetic": "there is no phonetic matching",
}


class CompositePart(msgspec.Struct, frozen=True, kw_only=True):
    """One component of a composite parameter."""

    type: str
    finders: tuple[CompiledPath, ...]
    """Begin at the item, or at the resource where `rooted`."""
    places: tuple[CompiledPath, ...]
    """The same values, from the resource's root."""
    rooted: bool = False


class CompositePath(msgspec.Struct, frozen=True, kw_only=True):
    """One place at which a composite parameter looks, and what it looks for there."""

    base: CompiledPath
    parts: tuple[CompositePart, ...]

    @property
    def elements(self) -> frozenset[str]:
        """Give the root elements needed."""
        inner = (each.elements for part in self.parts for each in part.finders)
        return self.base.elements.union(*inner)


class CompiledParameter(msgspec.Struct, frozen=True, kw_only=True):
    """A search parameter of one type in one version, compiled."""

    code: str
    type: str
    finders: tuple[CompiledPath, ...] = ()
    targets: tuple[str, ...] = ()
    """Of a reference: the types it may point to."""
    composed: tuple[CompositePath, ...] = ()
    """Of a composite."""

    @property
    def elements(self) -> frozenset[str]:
        """Give the root elements needed to evaluate it."""
        plain = (each.elements for each in self.finders)
        return frozenset[str]().union(*plain, *(each.elements for each in self.composed))

    @property
    def groups(self) -> tuple[str, ...]:
        """Give the places that are indexed for it; none if an index cannot help."""
        groups = tuple(dict.fromkeys(each.group for each in self.finders))
        return groups if all(groups) and self.code not in NOT_INDEXED else ()

    @property
    def data_types(self) -> frozenset[str] | None:
        """Give the data types of its values, None where the tables do not say."""
        types = [each.types for each in self.finders]
        return frozenset().union(*types) if types and all(types) else None


def find_parameter(version: FHIRVersion, resource_type: str, code: str) -> CompiledParameter:
    """
    Give a search parameter of a type.

    Raises:
        InvalidParameter: There is no such type.
        UnsupportedParameter: The type has no such parameter, or it cannot be evaluated here.
    """
    parameters = compiled_parameters(version, resource_type)
    compiled = parameters.get(code)
    if isinstance(compiled, CompiledParameter):
        return compiled
    refused = _REFUSED.get(code, compiled)
    if refused is not None:
        raise UnsupportedParameter(f"search parameter {code} of {resource_type}: {refused}")
    codes = ", ".join(code for code, p in parameters.items() if isinstance(p, CompiledParameter))
    shown = f" {code}" if code.isascii() and code.isprintable() and len(code) <= 64 else ""  # noqa: PLR2004 - longer than any published code
    raise UnsupportedParameter(
        f"{resource_type} has no search parameter{shown} in FHIR {version}; supported are: {codes}"
    )


@cache
def compiled_parameters(
    version: FHIRVersion, resource_type: str
) -> Mapping[str, CompiledParameter | str]:
    """
    Give every published search parameter of a type by code; text says why one cannot be used.

    Raises:
        InvalidParameter: There is no such type.
    """
    definitions = load_definitions(version)
    if resource_type not in definitions.types:
        raise InvalidParameter(f"FHIR {version} has no such resource type to search")
    published: dict[str, list[SearchParameter]] = defaultdict(list)
    for each in definitions.search_parameters(resource_type):
        published[each.code].append(each)
    compiled = {
        code: _compiled(definitions, resource_type, same)
        for code, same in sorted(published.items())
    }
    return {code: each for code, each in compiled.items() if each is not None}


def _compiled(
    definitions: Definitions, resource_type: str, published: list[SearchParameter]
) -> CompiledParameter | str | None:
    first = published[0]
    own = [(each, path) for each in published for path in _paths(each.expression, resource_type)]
    # R6 puts the parameters of its newest types on every type; they are not this type's.
    if not own and any(each.expression for each in published):
        return None
    if refused := _REFUSED.get(first.code):
        return refused
    if first.type not in _SEARCHED:
        return f"parameters of type {first.type} are not implemented"
    if not own:
        return "the specification defines no expression for it"
    try:
        return _parameter(definitions, resource_type, own)
    except ValueError as error:
        return f"its expression cannot be evaluated: {error}"


def _paths(expression: str | None, resource_type: str) -> list[Path]:
    """Give a type's own alternatives; those that name no type are everyone else's."""
    paths = parse_expression(expression) if expression else ()
    own = [path for path in paths if path.root in _EVERY_TYPE | {resource_type}]
    return own or [path for path in paths if path.root is None]


def _parameter(
    definitions: Definitions, resource_type: str, own: list[tuple[SearchParameter, Path]]
) -> CompiledParameter:
    published = own[0][0]
    elements = definitions.elements(resource_type)
    finders = tuple(compile_path(path, elements) for _, path in own)
    if published.type != "composite":
        targets = {target for each, _ in own for target in each.target}
        limits = {each.target for each in finders if each.target}
        limited = all(each.target for each in finders)
        return CompiledParameter(
            code=published.code,
            type=published.type,
            finders=finders,
            targets=tuple(sorted(limits if limited else targets)),
        )
    composed = tuple(
        CompositePath(
            base=base,
            parts=tuple(_parts(definitions, resource_type, published, path)),
        )
        for base, (_, path) in zip(finders, own, strict=True)
    )
    return CompiledParameter(code=published.code, type="composite", composed=composed)


def _parts(
    definitions: Definitions, resource_type: str, published: SearchParameter, base: Path
) -> Iterator[CompositePart]:
    by_url = {each.url: each for each in definitions.parameters}
    at_root = definitions.elements(resource_type)
    if not published.component:
        raise ValueError("the specification names no components")
    for component in published.component:
        definition = by_url.get(component.definition)
        if definition is None:
            raise ValueError("a component is not a published parameter")
        if definition.type not in _SEARCHED - {"composite"}:
            raise ValueError(f"a component is of type {definition.type}")
        paths = _component_paths(component.expression, definition, base)
        rooted = not base.steps or paths[0].root == "%resource"
        yield CompositePart(
            type=definition.type,
            rooted=rooted,
            finders=tuple(compile_path(path, at_root if rooted else None) for path in paths),
            places=tuple(
                compile_path(path if rooted else _under(base, path), at_root) for path in paths
            ),
        )


def _under(base: Path, path: Path) -> Path:
    return Path(root=base.root, steps=(*base.steps, *path.steps))


def _component_paths(expression: str, definition: SearchParameter, base: Path) -> tuple[Path, ...]:
    try:
        return parse_expression(expression)
    except ValueError:
        # R6 names the component's parameter where its path belongs.
        if definition.code != expression or not definition.expression:
            raise
    return tuple(
        Path(root=None, steps=path.steps[len(base.steps) :])
        for path in parse_expression(definition.expression)
        if path.root == base.root and path.steps[: len(base.steps)] == base.steps
    )
