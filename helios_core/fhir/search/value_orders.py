"""
Orders by the values of a resource that an index can keep: those of its date parameters.

The numbers of the orders are those of a resource type in a FHIR version, so that a few fields are
enough for the resources of all types.
"""

from functools import cache
from typing import Any

import msgspec

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.search import dates
from helios_core.fhir.search.filters import DecodedResource
from helios_core.fhir.search.parameters import CompiledParameter, compiled_parameters

MAX_VALUE_ORDERS = 6
"""How many orders a type has at most; by other dates the core sorts itself."""

VALUES_VERSION = 1
"""Incremented when `values_of` or the number of an order changes; see `ENTRIES_VERSION`."""


class ValueOrder(msgspec.Struct, frozen=True, kw_only=True):
    """By one value of each resource; equal ones go by id, and those without one come last."""

    number: int
    """Which one of the values, from 0."""
    descending: bool = False
    """Whether the greatest value of a resource counts, and the greatest of all comes first."""


class Extremes(msgspec.Struct, frozen=True, array_like=True):
    """
    What a resource with several values is ordered by: `least` upwards, `greatest` downwards.

    A value is the first and the last microsecond of a date, from -(1 << 62) to 1 << 62.
    """

    least: tuple[int, int]
    greatest: tuple[int, int]


def values_of(
    resource: DecodedResource, version: FHIRVersion, resource_type: str
) -> tuple[Extremes | None, ...]:
    """Return the values of a resource in the orders of its type, None where it has none."""
    found = list[Extremes | None]()
    for parameter in ordered_parameters(version, resource_type):
        leaves = list[Any]()
        for path in parameter.paths:
            path.collect(resource, leaves)
        intervals = [own for leaf in leaves for own in dates.sort_values(leaf)]
        found.append(Extremes(min(intervals), max(intervals)) if intervals else None)
    return tuple(found)


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
