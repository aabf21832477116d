"""What of every type can be searched, as a CapabilityStatement tells it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from helios_core.fhir.search import Supported, supported
from helios_core.fhir.versions import FHIRVersion, table


@cache
def searchable(version: FHIRVersion) -> Mapping[str, dict[str, Any]]:
    """
    Give by type the elements of `CapabilityStatement.rest.resource` that are about searches.

    Whatever is listed works in `_typeFilter` too, so that nothing has to be marked as not
    supported there (Bulk Data 3.0.0, operation-not-supported). The first call compiles all types.
    """
    types = sorted(table(version).types)
    found = {name: supported(version, name) for name in types}
    pointing = defaultdict[str, list[str]](list)
    for name in types:
        for each in found[name]:
            for target in each.chains_to:
                pointing[target].append(f"{name}:{each.code}")
    return {name: _told(version, name, found[name], pointing[name]) for name in types}


def _told(
    version: FHIRVersion, resource_type: str, found: Sequence[Supported], pointing: list[str]
) -> dict[str, Any]:
    # Of several definitions of one code the first counts, as it does for searching.
    published = reversed(table(version).search_parameters(resource_type))
    definitions = {each.code: each.url for each in published}
    told = {
        "searchParam": [
            {"name": each.code, "definition": definitions[each.code], "type": each.type}
            for each in found
        ],
        "searchInclude": [f"{resource_type}:{each.code}" for each in found if each.chains_to],
        "searchRevInclude": pointing,
    }
    return {name: values for name, values in told.items() if values}
