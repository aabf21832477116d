"""The search parameters of a resource type: the published ones, compiled."""

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
from helios_core.fhir.fhirpath import CompiledPath, Path, compile_path, parse_expression

_BASE_TYPES = frozenset({"Resource", "DomainResource"})
_SUPPORTED_TYPES = frozenset(
    {"token", "string", "date", "number", "quantity", "reference", "uri", "composite"}
)
NOT_INDEXED = frozenset({"_id", "_lastUpdated", "_profile"})
"""
The codes of parameters without index terms.

Stores look up ids and instants by other means. Most resources of a store have the same profiles,
so that terms for profiles would hardly exclude any.
"""

_UNSUPPORTED = {
    "_content": "full-text search is not supported",
    "_text": "full-text search is not supported",
    "_filter": "the _filter language is not supported",
    "_has": "expected _has:Type:reference:code",
    "_in": "membership of lists and groups is not supported",
    "_list": "membership of lists and groups is not supported",
    "_query": "named queries are not supported",
    "_type": "the URL names the one type to search",
    "phonetic": "phonetic matching is not supported",
}
"""By code, why a parameter is not supported."""
_IN_LATER_VERSIONS = frozenset({"_language"})
"""Parameters of every type that only later versions of FHIR define."""


class CompositePart(msgspec.Struct, frozen=True, kw_only=True):
    """One component of a composite parameter."""

    type: str
    paths: tuple[CompiledPath, ...]
    """From an item of `CompositePath.base`, or from the resource if `rooted`."""
    indexed_paths: tuple[CompiledPath, ...]
    """To the same values, always from the resource."""
    rooted: bool = False


class CompositePath(msgspec.Struct, frozen=True, kw_only=True):
    """One path of a composite parameter, whose items must match in every component."""

    base: CompiledPath
    parts: tuple[CompositePart, ...]

    @property
    def elements(self) -> frozenset[str]:
        """Return the root elements that the base and the components read."""
        inner = (path.elements for part in self.parts for path in part.paths)
        return self.base.elements.union(*inner)


class CompiledParameter(msgspec.Struct, frozen=True, kw_only=True):
    """A search parameter of one resource type in one FHIR version, compiled."""

    code: str
    type: str
    paths: tuple[CompiledPath, ...] = ()
    """Empty for a composite."""
    targets: tuple[str, ...] = ()
    """The resource types that a reference may point to."""
    composite_paths: tuple[CompositePath, ...] = ()
    """Empty unless it is a composite."""

    @property
    def elements(self) -> frozenset[str]:
        """Return the root elements that the parameter reads."""
        plain = (path.elements for path in self.paths)
        return frozenset[str]().union(*plain, *(path.elements for path in self.composite_paths))

    @property
    def groups(self) -> tuple[str, ...]:
        """Return the groups of its paths in an index; none if an index cannot help."""
        groups = tuple(dict.fromkeys(path.group for path in self.paths))
        return groups if all(groups) and self.code not in NOT_INDEXED else ()

    @property
    def data_types(self) -> frozenset[str] | None:
        """Return the data types of its values, or None if the definitions do not say."""
        types = [path.types for path in self.paths]
        return frozenset().union(*types) if types and all(types) else None


def selects(version: FHIRVersion, resource_type: str, code: str) -> bool:
    """Return whether any version of FHIR defines this parameter and it selects resources."""
    known = code in _UNSUPPORTED or code in _IN_LATER_VERSIONS
    return known or code in compiled_parameters(version, resource_type)


def find_parameter(version: FHIRVersion, resource_type: str, code: str) -> CompiledParameter:
    """
    Return a search parameter of a resource type.

    Raises:
        InvalidParameter: There is no such resource type.
        UnsupportedParameter: The type has no such parameter, or it is not supported.
    """
    parameters = compiled_parameters(version, resource_type)
    compiled = parameters.get(code)
    if isinstance(compiled, CompiledParameter):
        return compiled
    reason = _UNSUPPORTED.get(code, compiled)
    if reason is not None:
        raise UnsupportedParameter(f"search parameter {code} of {resource_type}: {reason}")
    codes = ", ".join(code for code, p in parameters.items() if isinstance(p, CompiledParameter))
    name = f" {code}" if code.isascii() and code.isprintable() and len(code) <= 64 else ""  # noqa: PLR2004 - longer than any published code
    raise UnsupportedParameter(
        f"{resource_type} has no search parameter{name} in FHIR {version}; supported are: {codes}"
    )


@cache
def compiled_parameters(
    version: FHIRVersion, resource_type: str
) -> Mapping[str, CompiledParameter | str]:
    """
    Return every published search parameter of a resource type by code.

    In place of an unsupported parameter there is the reason.

    Raises:
        InvalidParameter: There is no such resource type.
    """
    definitions = load_definitions(version)
    if resource_type not in definitions.types:
        raise InvalidParameter(f"FHIR {version} has no such resource type")
    by_code: dict[str, list[SearchParameter]] = defaultdict(list)
    for parameter in definitions.search_parameters(resource_type):
        by_code[parameter.code].append(parameter)
    compiled = {
        code: _compile(definitions, resource_type, published)
        for code, published in sorted(by_code.items())
    }
    return {code: parameter for code, parameter in compiled.items() if parameter is not None}


def _compile(
    definitions: Definitions, resource_type: str, published: list[SearchParameter]
) -> CompiledParameter | str | None:
    """Compile the parameters of one code; None if they are not about this resource type."""
    first = published[0]
    own = [
        (parameter, path)
        for parameter in published
        for path in _own_paths(parameter.expression, resource_type)
    ]
    # R6 lists the parameters of its newest types under every type.
    if not own and any(parameter.expression for parameter in published):
        return None
    if reason := _UNSUPPORTED.get(first.code):
        return reason
    if first.type not in _SUPPORTED_TYPES:
        return f"parameters of type {first.type} are not supported"
    if not own:
        return "the specification defines no expression for it"
    try:
        return _compile_paths(definitions, resource_type, own)
    except ValueError as error:
        return f"its FHIRPath expression is not supported: {error}"


def _own_paths(expression: str | None, resource_type: str) -> list[Path]:
    """Return the paths that begin at a resource type, or else those that name no type."""
    paths = parse_expression(expression) if expression else ()
    own = [path for path in paths if path.root in _BASE_TYPES | {resource_type}]
    return own or [path for path in paths if path.root is None]


def _compile_paths(
    definitions: Definitions, resource_type: str, own: list[tuple[SearchParameter, Path]]
) -> CompiledParameter:
    published = own[0][0]
    elements = definitions.elements(resource_type)
    paths = tuple(compile_path(path, elements) for _, path in own)
    if published.type != "composite":
        targets = {target for parameter, _ in own for target in parameter.target}
        conditions = {path.target for path in paths if path.target}
        all_conditional = all(path.target for path in paths)
        return CompiledParameter(
            code=published.code,
            type=published.type,
            paths=paths,
            targets=tuple(sorted(conditions if all_conditional else targets)),
        )
    composite_paths = tuple(
        CompositePath(
            base=base,
            parts=tuple(_compile_parts(definitions, resource_type, published, path)),
        )
        for base, (_, path) in zip(paths, own, strict=True)
    )
    return CompiledParameter(
        code=published.code, type="composite", composite_paths=composite_paths
    )


def _compile_parts(
    definitions: Definitions, resource_type: str, published: SearchParameter, base: Path
) -> Iterator[CompositePart]:
    by_url = {parameter.url: parameter for parameter in definitions.parameters}
    elements = definitions.elements(resource_type)
    if not published.component:
        raise ValueError("the specification names no components")
    for component in published.component:
        definition = by_url.get(component.definition)
        if definition is None:
            raise ValueError("a component is not a published parameter")
        if definition.type not in _SUPPORTED_TYPES - {"composite"}:
            raise ValueError(f"a component is of type {definition.type}")
        paths = _component_paths(component.expression, definition, base)
        rooted = not base.steps or paths[0].root == "%resource"
        yield CompositePart(
            type=definition.type,
            rooted=rooted,
            paths=tuple(compile_path(path, elements if rooted else None) for path in paths),
            indexed_paths=tuple(
                compile_path(path if rooted else _join_paths(base, path), elements)
                for path in paths
            ),
        )


def _join_paths(base: Path, path: Path) -> Path:
    return Path(root=base.root, steps=(*base.steps, *path.steps))


def _component_paths(expression: str, definition: SearchParameter, base: Path) -> tuple[Path, ...]:
    try:
        return parse_expression(expression)
    except ValueError:
        # R6 has the code of the component's parameter in place of an expression.
        if definition.code != expression or not definition.expression:
            raise
    return tuple(
        Path(root=None, steps=path.steps[len(base.steps) :])
        for path in parse_expression(definition.expression)
        if path.root == base.root and path.steps[: len(base.steps)] == base.steps
    )
