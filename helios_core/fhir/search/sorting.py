"""Sort resources by search parameters (FHIR R4, search.html#sort)."""

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

from helios_core.errors import InvalidParameter, UnsupportedParameter
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.search.dates import Interval, span_group
from helios_core.fhir.search.filters import Condition, DecodedResource, make_decoder
from helios_core.fhir.search.parameter_types import parameter_type
from helios_core.fhir.search.parameters import CompiledParameter, compiled_parameters
from helios_core.fhir.search.prefilters import (
    Prefilter,
    SpanWithin,
    UpdatedWithin,
    any_prefilter,
)
from helios_core.fhir.search.value_orders import ValueOrder, ordered_parameters

MAX_KEYS: Final = 10
"""The maximum number of parameters by which one search can be sorted."""
MAX_TEXT: Final = 100
"""The number of characters at the beginning of a text by which it is sorted."""

_UPDATED = "_lastUpdated"

SortValues = tuple[Any, ...]
"""The values by which a resource is sorted, one for each key; None where it has no value."""
Position = tuple[Any, ...]
"""The position of a resource in an order: that of an earlier resource is less."""


class SortKey(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter to sort by."""

    parameter: CompiledParameter
    descending: bool = False

    @property
    def text(self) -> str:
        """Return the key as `_sort` names it."""
        return f"-{self.parameter.code}" if self.descending else self.parameter.code

    def value(self, resource: DecodedResource) -> Any:  # noqa: ANN401 - by the parameter's type
        """Return the value of a resource that comes first in this order, None if it has none."""
        leaves: list[Any] = []
        for path in self.parameter.paths:
            path.collect(resource, leaves)
        values_of = parameter_type(self.parameter.type).sort_values
        values = (value for leaf in leaves for value in values_of(leaf))
        first = max(values, default=None) if self.descending else min(values, default=None)
        return first[:MAX_TEXT] if isinstance(first, str) else first

    def parse(self, value: object) -> Any:  # noqa: ANN401 - by the parameter's type
        """
        Return a value that was encoded as JSON.

        Raises:
            InvalidParameter: It is not a value of the parameter.
        """
        try:
            parsed = msgspec.convert(value, parameter_type(self.parameter.type).sort_type | None)
        except (msgspec.ValidationError, ArithmeticError) as error:
            raise InvalidParameter("the page does not belong to this order") from error
        if isinstance(parsed, tuple) and isinstance(parsed[0], Decimal) and parsed[0].is_nan():
            raise InvalidParameter("the page does not belong to this order")
        return parsed


class Sort(msgspec.Struct, frozen=True, kw_only=True):
    """An order of the resources of one type; resources with equal values are ordered by id."""

    keys: tuple[SortKey, ...]
    decode: Callable[[bytes], DecodedResource]
    value_order: ValueOrder | None = None
    """The order by the first key, which an index may keep; None if an index cannot keep it."""

    @property
    def text(self) -> str:
        """Return the value of `_sort` for this order."""
        return ",".join(key.text for key in self.keys)

    def values(self, line: bytes) -> SortValues:
        """Return the values by which a resource is sorted; `line` is its JSON."""
        resource = self.decode(line)
        return tuple(key.value(resource) for key in self.keys)

    def parse_values(self, values: Sequence[object]) -> SortValues:
        """
        Return values that were encoded as JSON.

        Raises:
            InvalidParameter: They are not values of the parameters.
        """
        if len(values) != len(self.keys):
            raise InvalidParameter("the page does not belong to this order")
        return tuple(key.parse(value) for key, value in zip(self.keys, values, strict=True))

    @property
    def is_indexed(self) -> bool:
        """Whether an index can find the resources between two values of the first key."""
        parameter = self.keys[0].parameter
        return parameter.code == _UPDATED or (parameter.type == "date" and bool(parameter.groups))

    def between(self, first: SortValues | None, last: SortValues | None) -> Condition:
        """
        Return the condition that the first key has a value from `first` to `last` in this order.

        Both are inclusive, and None is no bound. The key must be indexed.
        """
        key = self.keys[0]
        if key.descending:
            first, last = last, first
        # Only beginnings are compared: intervals with the same beginning are all included.
        low, high = (None if values is None else values[0][0] for values in (first, last))

        def test(resource: DecodedResource) -> bool:
            value = key.value(resource)
            return (
                value is not None
                and (low is None or low <= value[0])
                and (high is None or value[0] <= high)
            )

        if key.parameter.code == _UPDATED:
            prefilter: Prefilter | None = UpdatedWithin(since=low, until=high)
        else:
            prefilter = any_prefilter(
                SpanWithin(group=span_group(group), low_from=low, low_to=high)
                for group in key.parameter.groups
            )
        return Condition(test=test, elements=key.parameter.elements, prefilter=prefilter)

    def without_value(self) -> Condition:
        """Return the condition that the first key has no value."""
        key = self.keys[0]
        return Condition(
            test=lambda resource: key.value(resource) is None, elements=key.parameter.elements
        )

    def position(self, values: SortValues, resource_id: str) -> Position:
        """Return the position of a resource; a missing value comes last in either direction."""
        return (*self._ranks(values), resource_id)

    def begin(self, after: SortValues) -> tuple[Interval | None, str]:
        """
        Return the value and id after which an index has all resources after a given one.

        `after` has the sort values of that resource, then its id.
        """
        return after[0], after[-1] if len(self.keys) == 1 else ""

    def reached(self, value: Interval | None, resource_id: str) -> Position:
        """Return the position up to which all are known once an index is read up to an entry."""
        rank = _rank(self.keys[0], value)
        # With a single key, resources with the same value are ordered by id, as in the index.
        return (rank, resource_id) if len(self.keys) == 1 else (rank,)

    def _ranks(self, values: SortValues) -> Iterator[tuple[int, Any]]:
        for key, value in zip(self.keys, values, strict=True):
            yield _rank(key, value)


def _rank(key: SortKey, value: Any) -> tuple[int, Any]:  # noqa: ANN401 - by the parameter's type
    """Return the comparison key of a value: keys sort as values do in the order of `key`."""
    if value is None:
        return 1, ""
    return 0, _Reversed(value) if key.descending else value


class _Reversed:
    """A wrapper that reverses the comparison of values, for descending order."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:  # noqa: ANN401 - anything that can be compared
        self.value = value

    def __lt__(self, other: "_Reversed") -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and bool(self.value == other.value)

    __hash__ = None  # type: ignore[assignment]


def parse_sort(version: FHIRVersion, resource_type: str, text: str) -> Sort:
    """
    Parse the value of `_sort`: codes of parameters joined by commas, `-` before a descending one.

    Parameters after `_id` are left out: they have no effect, because ids are unique.

    Raises:
        UnsupportedParameter: A parameter cannot be sorted by, or there are more than `MAX_KEYS`.
    """
    names = text.split(",")
    if len(names) > MAX_KEYS:
        raise UnsupportedParameter(f"_sort has more than {MAX_KEYS} parameters")
    keys: list[SortKey] = []
    for name in names:
        parameter = compiled_parameters(version, resource_type).get(name.removeprefix("-"))
        if not isinstance(parameter, CompiledParameter) or parameter.type == "composite":
            codes = ", ".join(sortable(version, resource_type))
            raise UnsupportedParameter(
                f"_sort: {resource_type} cannot be sorted by one of these parameters; it can be "
                f"sorted by: {codes}"
            )
        keys.append(SortKey(parameter=parameter, descending=name.startswith("-")))
        if parameter.code == "_id":
            break
    elements = frozenset[str]().union(*(key.parameter.elements for key in keys))
    return Sort(
        keys=tuple(keys),
        decode=make_decoder(elements),
        value_order=_value_order(version, resource_type, keys[0]),
    )


def _value_order(version: FHIRVersion, resource_type: str, key: SortKey) -> ValueOrder | None:
    ordered = ordered_parameters(version, resource_type)
    if key.parameter not in ordered:
        return None
    return ValueOrder(number=ordered.index(key.parameter), descending=key.descending)


def sortable(version: FHIRVersion, resource_type: str) -> list[str]:
    """Return the codes of the parameters that a type can be sorted by."""
    return [
        parameter.code
        for parameter in compiled_parameters(version, resource_type).values()
        if isinstance(parameter, CompiledParameter) and parameter.type != "composite"
    ]
