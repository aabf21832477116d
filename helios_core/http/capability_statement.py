"""The CapabilityStatement: what is offered, told from the powers of the backends."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import Any, Final

import msgspec

from helios_core.fhir.bulk_data import Guide
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.instants import format_instant
from helios_core.fhir.search import SupportedParameter, supported_parameters
from helios_core.storage.data_provider import (
    DataProvider,
    SupportsHistory,
    SupportsSearch,
    SupportsWrites,
)
from helios_core.storage.transformed_reads import WithheldReads

EXPORTS: Final = {"Patient": "patient-export", "Group": "group-export"}
"""The types on which an export can be started, and the definitions of those operations."""
CONDITIONAL: Final = {
    "conditionalCreate": True,
    "conditionalUpdate": True,
    "conditionalDelete": "single",
}
"""What a store that can be searched and written to can do with every type."""


def capability_statement(
    provider: DataProvider,
    fhir_version: FHIRVersion,
    *,
    base: str,
    guide: Guide | None,
    date: datetime,
) -> bytes:
    """Give the CapabilityStatement of one FHIR version as JSON; no guide means no exports."""
    statement = {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": format_instant(date),
        "kind": "instance",
        "software": {"name": "Helios", "version": version("helios-fhir")},
        "implementation": {"description": "Helios FHIR server", "url": base},
        "fhirVersion": load_definitions(fhir_version).label,
        "format": ["application/fhir+json", "json"],
        "rest": [_rest(provider, fhir_version, guide=guide)],
    }
    if guide:
        statement["instantiates"] = [guide.canonical("CapabilityStatement", "bulk-data")]
    return msgspec.json.encode(statement)


def _rest(
    provider: DataProvider, fhir_version: FHIRVersion, *, guide: Guide | None
) -> dict[str, Any]:
    interactions = [{"code": code} for code in _interactions(provider)]
    searches = search_capabilities(fhir_version) if isinstance(provider, SupportsSearch) else {}
    rest: dict[str, Any] = {
        "mode": "server",
        "resource": [
            _resource(name, provider, interactions, guide=guide) | searches.get(name, {})
            for name in sorted(load_definitions(fhir_version).types)
        ],
    }
    if isinstance(provider, SupportsWrites):
        rest["interaction"] = [{"code": "transaction"}, {"code": "batch"}]
    if guide:
        rest["operation"] = [_operation(guide, "export")]
    return rest


def _interactions(provider: DataProvider) -> Iterator[str]:
    """Give the codes of what can be done with every type."""
    if not isinstance(provider, WithheldReads):
        yield "read"
    if isinstance(provider, SupportsHistory):
        yield from ("vread", "history-instance")
    if isinstance(provider, SupportsWrites):
        yield from ("create", "update", "delete")
    if isinstance(provider, SupportsSearch):
        yield "search-type"


def _resource(
    name: str, provider: DataProvider, interactions: list[dict[str, str]], *, guide: Guide | None
) -> dict[str, Any]:
    resource: dict[str, Any] = {"type": name}
    if interactions:
        resource |= {"interaction": interactions, "conditionalRead": "not-match"}
    if isinstance(provider, SupportsWrites):
        resource |= {"versioning": "versioned-update", "updateCreate": True}
    if isinstance(provider, SupportsHistory):
        resource["readHistory"] = True
    if isinstance(provider, SupportsWrites) and isinstance(provider, SupportsSearch):
        resource |= CONDITIONAL
    if guide and name in EXPORTS:
        resource["operation"] = [_operation(guide, EXPORTS[name])]
    return resource


def _operation(guide: Guide, definition: str) -> dict[str, str]:
    return {"name": "export", "definition": guide.canonical("OperationDefinition", definition)}


@cache
def search_capabilities(version: FHIRVersion) -> Mapping[str, dict[str, Any]]:
    """
    Give by type the elements of `CapabilityStatement.rest.resource` that are about searches.

    Whatever is listed works in `_typeFilter` too, so that nothing has to be marked as not
    supported there (Bulk Data 3.0.0, operation-not-supported). The first call compiles all types.
    """
    types = sorted(load_definitions(version).types)
    found = {name: supported_parameters(version, name) for name in types}
    pointing = defaultdict[str, list[str]](list)
    for name in types:
        for each in found[name]:
            for target in each.chains_to:
                pointing[target].append(f"{name}:{each.code}")
    return {name: _told(version, name, found[name], pointing[name]) for name in types}


def _told(
    version: FHIRVersion,
    resource_type: str,
    found: Sequence[SupportedParameter],
    pointing: list[str],
) -> dict[str, Any]:
    # Of several definitions of one code the first counts, as it does for searching.
    published = reversed(load_definitions(version).search_parameters(resource_type))
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
