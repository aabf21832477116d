"""A compiled search: a filter and its conditions, and the lookups of its chains."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypedDict

import msgspec

from helios_core.fhir.search import prefilters
from helios_core.fhir.search.parameters import CompiledParameter
from helios_core.fhir.search.prefilters import Prefilter

DecodedResource = Mapping[str, Any]
"""A decoded resource, or those of its root elements that are needed."""
Test = Callable[[DecodedResource], bool]
LookupResults = Mapping[str, frozenset[str]]
"""The ids that each lookup returned, by the lookup's key."""


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """
    A search of other resources, to be made before a filter can be used.

    Its result is the union of `ids_in` over the resources of `resource_type`. Resources that do
    not satisfy `filter.prefilter()` add nothing and can be left out. If the filter has lookups of
    its own, call `resolved` first, and use `ids_in` and `filter` of what it returns.
    """

    key: str
    """Equal for equal lookups; contains no search values."""
    resource_type: str
    filter: "Filter"
    reference: str | None = None
    """The parameter whose references are the result; if None, the ids of the matches are."""
    ids: Callable[[DecodedResource], frozenset[str]]
    decode: Callable[[bytes], DecodedResource]

    def resolved(self, results: LookupResults) -> "Lookup":
        """Return the lookup with its own lookups resolved; `results` has their ids by key."""
        return msgspec.structs.replace(self, filter=self.filter.resolved(results))

    def ids_in(self, line: bytes) -> frozenset[str]:
        """Return the ids that one resource adds to the result; none if it does not match."""
        resource = self.decode(line)
        return self.ids(resource) if self.filter.condition.test(resource) else frozenset()


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """A condition on a resource."""

    test: Test
    elements: frozenset[str]
    """The root elements that `test` reads."""
    prefilter: Prefilter | None = None
    lookups: tuple[Lookup, ...] = ()
    resolve: "Callable[[LookupResults], Condition] | None" = None
    """Returns the same condition without lookups; None if there are none."""

    def resolved(self, results: LookupResults) -> "Condition":
        """Return the condition without lookups."""
        return self.resolve(results) if self.resolve else self


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled search of one resource type."""

    resource_type: str
    condition: Condition
    decode: Callable[[bytes], DecodedResource]
    """Decodes only those elements of a line that the search reads."""

    @property
    def elements(self) -> frozenset[str]:
        """Return the names of the root elements that the search reads."""
        return self.condition.elements

    @property
    def lookups(self) -> tuple[Lookup, ...]:
        """
        Return the lookups to make before `matches` may be called, without duplicates.

        A lookup that depends on another one comes after it.
        """
        return tuple({lookup.key: lookup for lookup in self._lookups()}.values())

    def _lookups(self) -> Iterator[Lookup]:
        for lookup in self.condition.lookups:
            yield from lookup.filter.lookups
            yield lookup

    @property
    def passes_everything(self) -> bool:
        """Whether every resource matches, because the search has no conditions."""
        return not self.elements and self.matches(b"{}")

    def matches(self, line: bytes) -> bool:
        """
        Return whether a resource matches; `line` is its JSON.

        Raises:
            RuntimeError: There are lookups; use the filter that `resolved` returns.
        """
        return self.condition.test(self.decode(line))

    def resolved(self, results: LookupResults) -> "Filter":
        """Return the filter without lookups; `results` has the ids of each lookup by its key."""
        if not self.condition.lookups:
            return self
        return make_filter(self.resource_type, self.condition.resolved(results))

    def prefilter(self) -> Prefilter | None:
        """Return a prefilter that every match satisfies, or None if an index cannot help."""
        return self.condition.prefilter


def make_filter(resource_type: str, condition: Condition) -> Filter:
    """Return the filter of a type that has this condition."""
    decode = make_decoder(condition.elements)
    return Filter(resource_type=resource_type, condition=condition, decode=decode)


def any_filter(filters: Sequence[Filter]) -> Filter:
    """
    Return the filter that matches resources that at least one of several filters matches.

    Raises:
        ValueError: There are no filters, or they are of several resource types.
    """
    types = {filter_.resource_type for filter_ in filters}
    if len(types) != 1:
        raise ValueError(f"the filters must be of one resource type, not of {len(types)}")
    return make_filter(types.pop(), any_condition([filter_.condition for filter_ in filters]))


def all_conditions(conditions: Sequence[Condition]) -> Condition:
    """Return the condition that all conditions hold; without conditions it always holds."""
    if len(conditions) == 1:
        return conditions[0]
    tests = tuple(condition.test for condition in conditions)
    return Condition(
        test=lambda resource: all(test(resource) for test in tests),
        prefilter=prefilters.all_prefilters(condition.prefilter for condition in conditions),
        **_combine(conditions, all_conditions),
    )


def any_condition(conditions: Sequence[Condition]) -> Condition:
    """Return the condition that at least one of several conditions holds."""
    if len(conditions) == 1:
        return conditions[0]
    tests = tuple(condition.test for condition in conditions)
    return Condition(
        test=lambda resource: any(test(resource) for test in tests),
        prefilter=prefilters.any_prefilter(condition.prefilter for condition in conditions),
        **_combine(conditions, any_condition),
    )


class _CombinedFields(TypedDict):
    elements: frozenset[str]
    lookups: tuple[Lookup, ...]
    resolve: Callable[[LookupResults], Condition] | None


def _combine(
    conditions: Sequence[Condition], combine_resolved: Callable[[Sequence[Condition]], Condition]
) -> _CombinedFields:
    lookups = tuple(lookup for condition in conditions for lookup in condition.lookups)
    return {
        "elements": frozenset[str]().union(*(condition.elements for condition in conditions)),
        "lookups": lookups,
        "resolve": (
            lambda results: combine_resolved(
                [condition.resolved(results) for condition in conditions]
            )
        )
        if lookups
        else None,
    }


def any_leaf(
    parameter: CompiledParameter, test: Callable[[Any], bool], prefilter: Prefilter | None = None
) -> Condition:
    """Return the condition that at least one leaf, a value of the parameter's paths, passes."""
    collectors = tuple(path.collect for path in parameter.paths)

    def any_passes(resource: DecodedResource) -> bool:
        leaves: list[Any] = []
        for collect in collectors:
            collect(resource, leaves)
        for leaf in leaves:  # noqa: SIM110 - any() with a generator takes twice as long
            if test(leaf):
                return True
        return False

    return Condition(test=any_passes, elements=parameter.elements, prefilter=prefilter)


def negate(condition: Condition) -> Condition:
    """Return the condition that another one does not hold; an index cannot help with it."""
    test = condition.test
    return Condition(test=lambda resource: not test(resource), elements=condition.elements)


@lru_cache(maxsize=1024)
def make_decoder(elements: frozenset[str]) -> Callable[[bytes], DecodedResource]:
    """Return a decoder of JSON objects that decodes only these root elements."""
    # `Any`, because mypy wants the elements of a TypedDict spelled out in the source.
    define: Any = TypedDict
    needed = define("Needed", dict.fromkeys(sorted(elements), Any), total=False)
    exact = msgspec.json.Decoder(needed, float_hook=Decimal).decode
    tolerant = msgspec.json.Decoder(needed, float_hook=_decimal).decode

    def decode(line: bytes) -> DecodedResource:
        try:
            resource: DecodedResource = exact(line)
        except ArithmeticError:
            resource = tolerant(line)
        return resource

    return decode


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except ArithmeticError:
        return None  # an exponent beyond the range of Decimal; no search value has one
