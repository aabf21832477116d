"""From the parameters of a search to a filter."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from helios_core.errors import InvalidParameter, UnsupportedParameter
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.search import chains, composites, tokens
from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.filters import (
    Condition,
    Filter,
    all_conditions,
    any_value,
    make_filter,
    negate,
)
from helios_core.fhir.search.parameter_types import parameter_type
from helios_core.fhir.search.parameters import (
    CompiledParameter,
    compiled_parameters,
    find_parameter,
)
from helios_core.fhir.search.values import alternatives

Pairs = Sequence[tuple[str, str]]
"""Decoded names, with modifiers and chains, and decoded values, in which escapes are kept."""

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
"""What shapes a result and selects nothing."""

_NAME = re.compile(r"[A-Za-z0-9_\-]{1,64}(?:[:.][A-Za-z0-9_\-]{1,64}){0,8}")
_HAS_PARTS = 4


class _Search(msgspec.Struct, frozen=True, kw_only=True):
    version: FHIRVersion
    resource_type: str
    base_urls: tuple[str, ...]
    now: datetime
    inner: bool = False
    """Whether it is asked of other resources than those searched for."""

    def of(self, resource_type: str) -> "_Search":
        return msgspec.structs.replace(self, resource_type=resource_type, inner=True)


def compile_query(
    version: FHIRVersion,
    resource_type: str,
    pairs: Pairs,
    *,
    base_urls: Sequence[str] = (),
    now: datetime | None = None,
) -> Filter:
    """
    Give the filter of a search: all of the pairs must hold, and of a list any value will do.

    Absolute references count as local under one of `base_urls`. `now` is what `ap` measures
    dates by; give one instant where several processes have to agree.

    Raises:
        InvalidParameter: There is no such type, or a value cannot mean anything.
        UnsupportedParameter: A parameter, modifier or chain is not one that works here.
    """
    search = _Search(
        version=version,
        resource_type=resource_type,
        base_urls=tuple(base_urls),
        now=now or datetime.now(UTC),
    )
    return _filter(search, pairs)


def _filter(search: _Search, pairs: Pairs) -> Filter:
    compiled_parameters(search.version, search.resource_type)
    conditions = [_condition(search, name, value) for name, value in pairs]
    return make_filter(search.resource_type, all_conditions(conditions))


def refuse_result_parameter(name: str) -> None:
    """
    Let pass what can select resources.

    Raises:
        UnsupportedParameter: The parameter shapes results.
    """
    code = re.split("[:.]", name, maxsplit=1)[0]
    if code in RESULT_PARAMETERS:
        raise UnsupportedParameter(
            f"{code} shapes the result of a search and cannot be used to select resources"
        )


def _condition(search: _Search, name: str, value: str) -> Condition:
    if not _NAME.fullmatch(name):
        raise InvalidParameter(
            f"a search parameter of {search.resource_type} has a malformed name; expected code,"
            " code:modifier, reference.code or _has:Type:reference:code"
        )
    refuse_result_parameter(name)
    _refuse_unreadable(name, value)
    if name.startswith("_has:"):
        return _has(search, name, value)
    if "." in name:
        return _chain(search, name, value)
    code, _, modifier = name.partition(":")
    return _plain(search, code, modifier, value)


def _refuse_unreadable(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidParameter(f"the value of {name} is not Unicode text") from error


def _plain(search: _Search, code: str, modifier: str, value: str) -> Condition:
    found = find_parameter(search.version, search.resource_type, code)
    question = Criterion(
        version=search.version,
        resource_type=search.resource_type,
        parameter=found,
        modifier=modifier or None,
        values=alternatives(code, value),
        base_urls=search.base_urls,
        now=search.now,
    )
    _check_modifier(question)
    if modifier == "missing":
        return _missing(question)
    if found.type == "composite":
        return composites.condition(question)
    return parameter_type(found.type).condition(question)


def modifiers(version: FHIRVersion, found: CompiledParameter) -> tuple[str, ...]:
    """Give the modifiers that a parameter can be asked with; of a reference, its types too."""
    if found.type == "composite":
        return ()
    types = reference_types(version, found)
    return tuple(sorted({"missing", *parameter_type(found.type).modifiers(found), *types}))


def reference_types(version: FHIRVersion, found: CompiledParameter) -> tuple[str, ...]:
    """Give the resource types that a parameter's references may point to."""
    if found.type != "reference":
        return ()
    known = load_definitions(version).types
    # Resource stands for all of them; of canonical URLs the type is not told.
    targets = (
        known if "Resource" in found.targets or not found.targets else known & {*found.targets}
    )
    return tuple(sorted(targets)) if found.data_types != frozenset({"canonical"}) else ()


def _check_modifier(question: Criterion) -> None:
    modifier = question.modifier
    supported = modifiers(question.version, question.parameter)
    if modifier is None or modifier in supported:
        return
    if question.parameter.type == "token" and modifier in tokens.TERMINOLOGY:
        raise question.unsupported("there is no terminology server")
    raise question.unsupported(f"supported modifiers are: {', '.join(supported) or 'none'}")


def _missing(question: Criterion) -> Condition:
    if question.values not in (("true",), ("false",)):
        raise question.invalid("expected true or false")
    present = any_value(question.parameter, lambda _: True)
    return negate(present) if question.values == ("true",) else present


def _chain(search: _Search, name: str, value: str) -> Condition:
    head, _, rest = name.partition(".")
    code, _, named = head.partition(":")
    if search.inner or "." in rest or rest.startswith("_has"):
        raise UnsupportedParameter(f"{name}: chains of more than one step are not supported")
    found = find_parameter(search.version, search.resource_type, code)
    if found.type != "reference":
        raise UnsupportedParameter(
            f"{name}: {code} of {search.resource_type} is a {found.type}; only a reference can be"
            " chained"
        )
    target = _filter(search.of(_target(search, found, named, rest)), [(rest, value)])
    return chains.chain_condition(
        found, target, asked=f"{rest}={value}", base_urls=search.base_urls
    )


def _target(search: _Search, found: CompiledParameter, named: str, rest: str) -> str:
    types = reference_types(search.version, found)
    shown = f"search parameter {found.code} of {search.resource_type}"
    if named:
        if named not in types:
            raise UnsupportedParameter(f"{shown} has no references to that type to chain through")
        return named
    code = rest.partition(":")[0]
    able = [
        each
        for each in types
        if isinstance(compiled_parameters(search.version, each).get(code), CompiledParameter)
    ]
    if len(able) != 1:
        raise UnsupportedParameter(
            f"{shown}: {len(able)} of the types it can point to have a parameter {code}; name the"
            f" one that is meant, as in {found.code}:{(able or types)[0]}.{code}"
            if types
            else f"{shown} points to no type that can be searched"
        )
    return able[0]


def _has(search: _Search, name: str, value: str) -> Condition:
    parts = name.split(":", _HAS_PARTS - 1)
    if len(parts) != _HAS_PARTS or "." in name:
        raise InvalidParameter("expected _has:Type:reference:code, with one step only")
    _, source_type, reference_code, rest = parts
    if search.inner or rest.startswith("_has"):
        raise UnsupportedParameter("_has of more than one step is not supported")
    reference = find_parameter(search.version, source_type, reference_code)
    if search.resource_type not in reference_types(search.version, reference):
        raise UnsupportedParameter(
            f"_has: search parameter {reference_code} of {source_type} is no reference to"
            f" {search.resource_type}"
        )
    source = _filter(search.of(source_type), [(rest, value)])
    return chains.has_condition(
        source,
        reference,
        search.resource_type,
        asked=f"{rest}={value}",
        base_urls=search.base_urls,
    )
