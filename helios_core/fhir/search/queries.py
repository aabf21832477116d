"""Compile the parameters of a search to a filter."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from helios_core.errors import InvalidParameter, UnsupportedParameter
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.search import chains, composites, parameter_types, tokens
from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.filters import (
    Condition,
    Filter,
    all_conditions,
    any_condition,
    any_leaf,
    make_filter,
    negate,
)
from helios_core.fhir.search.parameters import (
    CompiledParameter,
    compiled_parameters,
    find_parameter,
)
from helios_core.fhir.search.values import alternatives

Pairs = Sequence[tuple[str, str]]
"""Percent-decoded names, with modifiers and chains, and values, in which `\\,` stays escaped."""

RESULT_PARAMETERS = frozenset(
    {
        "_contained",
        "_containedType",
        "_count",
        "_elements",
        "_format",
        "_graph",
        "_include",
        "_maxresults",
        "_page",
        "_pretty",
        "_revinclude",
        "_score",
        "_sort",
        "_summary",
        "_total",
    }
)
"""Search result parameters, which shape the result and select no resources."""

MAX_STEPS = 5
"""The maximum number of steps of one chain or `_has`."""
MAX_CHAINED_TYPES = 8
"""The maximum number of resource types of the last step of a chain that does not name one."""

_NAME = re.compile(r"[A-Za-z0-9_\-]{1,64}(?:[:.][A-Za-z0-9_\-]{1,64}){0,24}")
_HAS_PARTS = 4


class _Search(msgspec.Struct, frozen=True, kw_only=True):
    """What all criteria of a search have in common."""

    version: FHIRVersion
    resource_type: str
    base_urls: tuple[str, ...]
    now: datetime
    steps: int = 0
    """The number of chains and `_has` that lead to this search."""

    def chain_to(self, resource_type: str) -> "_Search":
        """Return the search at the end of one more step."""
        if self.steps == MAX_STEPS:
            raise UnsupportedParameter(f"a chain or _has has more than {MAX_STEPS} steps")
        return msgspec.structs.replace(self, resource_type=resource_type, steps=self.steps + 1)


def compile_query(
    version: FHIRVersion,
    resource_type: str,
    pairs: Pairs,
    *,
    base_urls: Sequence[str] = (),
    now: datetime | None = None,
) -> Filter:
    """
    Compile a search.

    A resource matches if it meets every pair; it meets a pair if it matches any of its values.

    Absolute references are to this server if they begin with one of `base_urls`. The prefix `ap`
    of dates depends on `now`; processes that must agree have to pass the same instant.

    Raises:
        InvalidParameter: There is no such resource type, or a value is invalid.
        UnsupportedParameter: A parameter, modifier or chain is not supported.
    """
    search = _Search(
        version=version,
        resource_type=resource_type,
        base_urls=tuple(base_urls),
        now=now or datetime.now(UTC),
    )
    return _compile(search, pairs)


def _compile(search: _Search, pairs: Pairs) -> Filter:
    compiled_parameters(search.version, search.resource_type)  # raises for an unknown type
    if any("\0" in value for _, value in pairs):
        raise InvalidParameter(
            f"a search parameter of {search.resource_type} has a NUL character in its value"
        )
    conditions = [_condition(search, name, value) for name, value in pairs]
    return make_filter(search.resource_type, all_conditions(conditions))


def refuse_result_parameter(name: str) -> None:
    """
    Check that a parameter is not a search result parameter, which cannot select resources.

    Raises:
        UnsupportedParameter: It is a search result parameter.
    """
    code = re.split("[:.]", name, maxsplit=1)[0]
    if code in RESULT_PARAMETERS:
        raise UnsupportedParameter(
            f"{code} shapes the result of a search and cannot select resources"
        )


def _condition(search: _Search, name: str, value: str) -> Condition:
    if not _NAME.fullmatch(name):
        raise InvalidParameter(
            f"a search parameter of {search.resource_type} has a malformed name; expected code,"
            " code:modifier, reference.code or _has:Type:reference:code"
        )
    refuse_result_parameter(name)
    _check_unicode(name, value)
    if name.startswith("_has:"):
        return _has_condition(search, name, value)
    if "." in name:
        return _chain_condition(search, name, value)
    code, _, modifier = name.partition(":")
    return _own_condition(search, code, modifier, value)


def _check_unicode(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidParameter(f"the value of {name} is not valid Unicode") from error


def _own_condition(search: _Search, code: str, modifier: str, value: str) -> Condition:
    """Return a condition on the resource itself, without a chain."""
    criterion = Criterion(
        version=search.version,
        resource_type=search.resource_type,
        parameter=find_parameter(search.version, search.resource_type, code),
        modifier=modifier or None,
        values=alternatives(code, value),
        base_urls=search.base_urls,
        now=search.now,
    )
    _check_modifier(criterion)
    if modifier == "missing":
        return _missing_condition(criterion)
    if criterion.parameter.type == "composite":
        return composites.condition(criterion)
    return parameter_types.condition(criterion)


def modifiers(version: FHIRVersion, parameter: CompiledParameter) -> tuple[str, ...]:
    """Return the supported modifiers of a parameter, including the types of a reference."""
    if parameter.type == "composite":
        return ()
    types = reference_types(version, parameter)
    own = parameter_types.parameter_type(parameter.type).modifiers(parameter)
    return tuple(sorted({"missing", *own, *types}))


def reference_types(version: FHIRVersion, parameter: CompiledParameter) -> tuple[str, ...]:
    """Return the resource types that a parameter's references may point to."""
    if parameter.type != "reference":
        return ()
    if parameter.data_types == frozenset({"canonical"}):
        return ()  # a canonical URL does not name a type
    types = load_definitions(version).types
    if parameter.targets and "Resource" not in parameter.targets:
        types = types & {*parameter.targets}
    return tuple(sorted(types))


def _check_modifier(criterion: Criterion) -> None:
    modifier = criterion.modifier
    supported = modifiers(criterion.version, criterion.parameter)
    if modifier is None or modifier in supported:
        return
    if criterion.parameter.type == "token" and modifier in tokens.TERMINOLOGY_MODIFIERS:
        raise criterion.unsupported("there is no terminology server")
    raise criterion.unsupported(f"supported modifiers are: {', '.join(supported) or 'none'}")


def _missing_condition(criterion: Criterion) -> Condition:
    if criterion.values not in (("true",), ("false",)):
        raise criterion.invalid("expected true or false")
    present = any_leaf(criterion.parameter, lambda _: True)
    return negate(present) if criterion.values == ("true",) else present


def _chain_condition(search: _Search, name: str, value: str) -> Condition:
    head, _, rest = name.partition(".")
    code, _, type_ = head.partition(":")
    reference = find_parameter(search.version, search.resource_type, code)
    if reference.type != "reference":
        raise UnsupportedParameter(
            f"{name}: {code} of {search.resource_type} is of type {reference.type}; only a"
            " reference can be chained"
        )
    types = _target_types(search, reference, type_, rest)
    targets, refused = [], []
    for target_type in types:
        try:
            targets.append(_compile(search.chain_to(target_type), [(rest, value)]))
        except UnsupportedParameter as error:
            refused.append(error)
    if not targets:
        raise refused[0]
    return any_condition(
        [
            chains.chain_condition(
                reference, target, query=f"{rest}={value}", base_urls=search.base_urls
            )
            for target in targets
        ]
    )


def _target_types(
    search: _Search, reference: CompiledParameter, type_: str, rest: str
) -> Sequence[str]:
    """
    Return the resource types of a step: the one in the name, or those that have the parameter.

    Only the last step may have several, because their numbers would multiply.
    """
    types = reference_types(search.version, reference)
    prefix = f"search parameter {reference.code} of {search.resource_type}"
    if type_:
        if type_ not in types:
            raise UnsupportedParameter(f"{prefix} cannot be chained to that resource type")
        return (type_,)
    if not types:
        raise UnsupportedParameter(f"{prefix} has no references to searchable resources")
    code = re.split("[:.]", rest, maxsplit=1)[0]
    possible = [
        target
        for target in types
        if code == "_has"
        or isinstance(compiled_parameters(search.version, target).get(code), CompiledParameter)
    ]
    is_last = "." not in rest and code != "_has"
    if not 0 < len(possible) <= (MAX_CHAINED_TYPES if is_last else 1):
        raise UnsupportedParameter(
            f"{prefix}: {len(possible)} of its target types have a parameter {code}; add the type"
            f" to the name, as in {reference.code}:{(possible or types)[0]}.{code}"
        )
    return possible


def _has_condition(search: _Search, name: str, value: str) -> Condition:
    parts = name.split(":", _HAS_PARTS - 1)
    if len(parts) != _HAS_PARTS:
        raise InvalidParameter("expected _has:Type:reference:code")
    _, source_type, reference_code, rest = parts
    reference = find_parameter(search.version, source_type, reference_code)
    if search.resource_type not in reference_types(search.version, reference):
        raise UnsupportedParameter(
            f"_has: search parameter {reference_code} of {source_type} has no references to"
            f" {search.resource_type}"
        )
    source = _compile(search.chain_to(source_type), [(rest, value)])
    return chains.has_condition(
        source,
        reference,
        search.resource_type,
        query=f"{rest}={value}",
        base_urls=search.base_urls,
    )
