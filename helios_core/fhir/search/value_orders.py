"""
Orders of resources that an index can keep: those by the values of date parameters.

The orders are numbered within a resource type of a FHIR version, so that an index needs only a few
fields for the resources of all types.
"""

from functools import cache
from typing import Any

import msgspec

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.search import dates
from helios_core.fhir.search.filters import DecodedResource
from helios_core.fhir.search.parameters import CompiledParameter, compiled_parameters

MAX_VALUE_ORDERS = 6
"""The maximum number of orders of a type; by other dates the core itself sorts."""

VALUES_VERSION = 1
"""Incremented when `values_of` or the number of an order changes; see `ENTRIES_VERSION`."""


class ValueOrder(msgspec.Struct, frozen=True, kw_only=True):
    """
    An order by one value of each resource.

    Resources with equal values are ordered by id; those without a value come last.
    """

    number: int
    """The index in `values_of` of the value, from 0."""
    descending: bool = False
    """Whether a resource counts by its greatest value, and the greatest value comes first."""


class Extremes(msgspec.Struct, frozen=True, array_like=True):
    """
    The `least` and the `greatest` value of a resource, by which it is ordered.

    A value is the first and the last microsecond of a date since 1970, from -(1 << 62) to 1 << 62.
    """

    least: tuple[int, int]
    greatest: tuple[int, int]


def values_of(
    resource: DecodedResource, version: FHIRVersion, resource_type: str
) -> tuple[Extremes | None, ...]:
    """Return the values of a resource in the orders of its type, None where it has none."""
    extremes = list[Extremes | None]()
    for parameter in ordered_parameters(version, resource_type):
        leaves = list[Any]()
        for path in parameter.paths:
            path.collect(resource, leaves)
        intervals = [own for leaf in leaves for own in dates.sort_values(leaf)]
        extremes.append(Extremes(min(intervals), max(intervals)) if intervals else None)
    return tuple(extremes)


@cache
def ordered_parameters(version: FHIRVersion, resource_type: str) -> tuple[CompiledParameter, ...]:
    """Return the parameters of a type by whose values an index can order, by number."""
    compiled = compiled_parameters(version, resource_type)
    ordered = (compiled[code] for code in sorted(compiled))
    return tuple(
        parameter
        for parameter in ordered
        if isinstance(parameter, CompiledParameter)
        and parameter.type == "date"
        and parameter.groups
    )[:MAX_VALUE_ORDERS]
