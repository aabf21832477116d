"""The CapabilityStatement: what is offered, told from the powers of the backends."""

from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import version
from typing import Any, Final

import msgspec

from helios_core.data_providers import (
    DataProvider,
    SupportsHistory,
    SupportsSearch,
    SupportsWrites,
)
from helios_core.fhir.instants import format_instant
from helios_core.fhir.versions import FHIRVersion, table

BULK_DATA: Final = "http://hl7.org/fhir/uv/bulkdata"
EXPORTS: Final = {"Patient": "patient-export", "Group": "group-export"}
"""The types on which an export can be started, and the definitions of those operations."""


def capability_statement(
    provider: DataProvider, fhir_version: FHIRVersion, *, base: str, exports: bool, date: datetime
) -> bytes:
    """Give the CapabilityStatement of one FHIR version as JSON."""
    statement = {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": format_instant(date),
        "kind": "instance",
        "software": {"name": "Helios", "version": version("helios-core")},
        "implementation": {"description": "Helios FHIR server", "url": base},
        "fhirVersion": table(fhir_version).label,
        "format": ["application/fhir+json", "json"],
        "rest": [_rest(provider, fhir_version, exports=exports)],
    }
    if exports:
        statement["instantiates"] = [f"{BULK_DATA}/CapabilityStatement/bulk-data"]
    return msgspec.json.encode(statement)


def _rest(provider: DataProvider, fhir_version: FHIRVersion, *, exports: bool) -> dict[str, Any]:
    interactions = [{"code": code} for code in _interactions(provider)]
    rest: dict[str, Any] = {
        "mode": "server",
        "resource": [
            _resource(name, provider, interactions, exports=exports)
            for name in sorted(table(fhir_version).types)
        ],
    }
    if isinstance(provider, SupportsWrites):
        rest["interaction"] = [{"code": "transaction"}, {"code": "batch"}]
    if exports:
        rest["operation"] = [_operation("export")]
    return rest


def _interactions(provider: DataProvider) -> Iterator[str]:
    """Give the codes of what can be done with every type."""
    yield "read"
    if isinstance(provider, SupportsHistory):
        yield from ("vread", "history-instance")
    if isinstance(provider, SupportsWrites):
        yield from ("create", "update", "delete")
    if isinstance(provider, SupportsSearch):
        yield "search-type"


def _resource(
    name: str, provider: DataProvider, interactions: list[dict[str, str]], *, exports: bool
) -> dict[str, Any]:
    resource: dict[str, Any] = {"type": name, "interaction": interactions}
    if isinstance(provider, SupportsWrites):
        resource |= {"versioning": "versioned-update", "updateCreate": True}
    if isinstance(provider, SupportsHistory):
        resource["readHistory"] = True
    if isinstance(provider, SupportsSearch):
        resource["searchParam"] = [
            {"name": "_id", "type": "token"},
            {"name": "_lastUpdated", "type": "date"},
        ]
    if exports and name in EXPORTS:
        resource["operation"] = [_operation(EXPORTS[name])]
    return resource


def _operation(definition: str) -> dict[str, str]:
    return {"name": "export", "definition": f"{BULK_DATA}/OperationDefinition/{definition}"}
