"""A compiled search: what it decodes, whom it lets pass, what it must be told first."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypedDict

import msgspec

from helios_core.fhir.search import prefilters
from helios_core.fhir.search.parameters import CompiledParameter
from helios_core.fhir.search.prefilters import Prefilter

Resource = Mapping[str, Any]
"""A decoded resource, or as much of it as is needed."""
Test = Callable[[Resource], bool]
Answers = Mapping[str, frozenset[str]]
"""For each lookup's key, the ids it found."""


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """
    A search among other resources that has to be answered before a filter can be used.

    The answer is the union of `ids_in` over the resources of `resource_type`; those outside of
    `filter.prefilter()` need not be looked at.
    """

    key: str
    """Equal for equal lookups; holds none of the values asked for."""
    resource_type: str
    filter: "Filter"
    reference: str | None = None
    """The parameter whose references are the answer; None if the answer is the ids found."""
    ids: Callable[[Resource], frozenset[str]]
    decode: Callable[[bytes], Resource]

    def ids_in(self, line: bytes) -> frozenset[str]:
        """Give the ids that one resource adds to the answer; none if it does not match."""
        resource = self.decode(line)
        return self.ids(resource) if self.filter.condition.test(resource) else frozenset()


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One thing asked of a resource."""

    test: Test
    elements: frozenset[str]
    prefilter: Prefilter | None = None
    lookups: tuple[Lookup, ...] = ()
    resolve: "Callable[[Answers], Condition] | None" = None
    """Gives the same condition without open lookups; None where there are none."""

    def resolved(self, answers: Answers) -> "Condition":
        """Give the condition without open lookups."""
        return self.resolve(answers) if self.resolve else self


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """A search over one type, ready to be asked about resources."""

    resource_type: str
    condition: Condition
    decode: Callable[[bytes], Resource]
    """Decodes of a line only what the search looks at."""

    @property
    def elements(self) -> frozenset[str]:
        """Give the names of the root elements that the search looks at."""
        return self.condition.elements

    @property
    def lookups(self) -> tuple[Lookup, ...]:
        """Give what has to be answered before `matches` may be called, each once."""
        return tuple({lookup.key: lookup for lookup in self.condition.lookups}.values())

    @property
    def passes_everything(self) -> bool:
        """Whether nothing is asked of a resource."""
        return not self.elements and self.matches(b"{}")

    def matches(self, line: bytes) -> bool:
        """
        Tell whether a resource, given as JSON, is one of those searched for.

        Raises:
            RuntimeError: There are lookups; use the filter that `resolved` gives.
        """
        return self.condition.test(self.decode(line))

    def resolved(self, answers: Answers) -> "Filter":
        """Give the filter that knows the answers to all `lookups`, by their keys."""
        return make_filter(self.resource_type, self.condition.resolved(answers))

    def prefilter(self) -> Prefilter | None:
        """Give what an index can look for: whatever matches satisfies it. None: no help."""
        return self.condition.prefilter


def make_filter(resource_type: str, condition: Condition) -> Filter:
    """Give the filter of a condition."""
    decode = make_decoder(condition.elements)
    return Filter(resource_type=resource_type, condition=condition, decode=decode)


def any_filter(filters: Sequence[Filter]) -> Filter:
    """
    Give the filter that lets pass what at least one of these does; all are of one type.

    Raises:
        ValueError: There are none, or they are of several types.
    """
    types = {each.resource_type for each in filters}
    if len(types) != 1:
        raise ValueError(f"filters of one type are required, not of {len(types)}")
    return make_filter(types.pop(), any_condition([each.condition for each in filters]))


def all_conditions(conditions: Sequence[Condition]) -> Condition:
    """Give the condition that all of these hold; without any it always holds."""
    if len(conditions) == 1:
        return conditions[0]
    tests = tuple(each.test for each in conditions)
    return Condition(
        test=lambda resource: all(test(resource) for test in tests),
        prefilter=prefilters.all_prefilters(each.prefilter for each in conditions),
        **_together(conditions, all_conditions),
    )


def any_condition(conditions: Sequence[Condition]) -> Condition:
    """Give the condition that at least one of these holds."""
    if len(conditions) == 1:
        return conditions[0]
    tests = tuple(each.test for each in conditions)
    return Condition(
        test=lambda resource: any(test(resource) for test in tests),
        prefilter=prefilters.any_prefilter(each.prefilter for each in conditions),
        **_together(conditions, any_condition),
    )


class _Common(TypedDict):
    elements: frozenset[str]
    lookups: tuple[Lookup, ...]
    resolve: Callable[[Answers], Condition] | None


def _together(
    conditions: Sequence[Condition], again: Callable[[Sequence[Condition]], Condition]
) -> _Common:
    lookups = tuple(lookup for each in conditions for lookup in each.lookups)
    return {
        "elements": frozenset[str]().union(*(each.elements for each in conditions)),
        "lookups": lookups,
        "resolve": (lambda answers: again([each.resolved(answers) for each in conditions]))
        if lookups
        else None,
    }


def any_value(
    parameter: CompiledParameter, test: Callable[[Any], bool], prefilter: Prefilter | None = None
) -> Condition:
    """Give the condition that at least one value of a parameter passes a test."""
    walks = tuple(each.walk for each in parameter.finders)

    def tell(resource: Resource) -> bool:
        values: list[Any] = []
        for walk in walks:
            walk(resource, values)
        for value in values:  # noqa: SIM110 - any() with a generator takes twice as long
            if test(value):
                return True
        return False

    return Condition(test=tell, elements=parameter.elements, prefilter=prefilter)


def negate(condition: Condition) -> Condition:
    """Give the condition that another one does not hold; no index can help with it."""
    test = condition.test
    return Condition(test=lambda resource: not test(resource), elements=condition.elements)


@lru_cache(maxsize=1024)
def make_decoder(elements: frozenset[str]) -> Callable[[bytes], Resource]:
    """Give what decodes these elements of a JSON object and skips the rest."""
    # mypy wants a TypedDict's elements spelled out in the source.
    define: Any = TypedDict
    needed = define("Needed", dict.fromkeys(sorted(elements), Any), total=False)
    exact = msgspec.json.Decoder(needed, float_hook=Decimal).decode
    tolerant = msgspec.json.Decoder(needed, float_hook=_decimal).decode

    def decode(line: bytes) -> Resource:
        try:
            resource: Resource = exact(line)
        except ArithmeticError:
            resource = tolerant(line)
        return resource

    return decode


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except ArithmeticError:
        return None  # an exponent beyond what Decimal has; no search value comes near it
