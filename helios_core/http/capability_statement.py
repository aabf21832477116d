"""The CapabilityStatement, derived from the powers of the data provider."""

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
from helios_core.fhir.media_types import FHIR_JSON
from helios_core.fhir.search import SupportedParameter, supported_parameters
from helios_core.interactions.callers import Interaction
from helios_core.interactions.patches import JSON_PATCH
from helios_core.storage.data_provider import (
    DataProvider,
    SupportsHistory,
    SupportsSearch,
    SupportsTypeHistory,
    SupportsWrites,
)
from helios_core.storage.transformed_reads import WithheldReads

EXPORTS: Final = {"Patient": "patient-export", "Group": "group-export"}
"""The types that have an export operation, and its definition."""
COMPARTMENT: Final = "http://hl7.org/fhir/CompartmentDefinition/{name}"
EVERYTHING: Final = {
    "Patient": {
        "name": "everything",
        "definition": "http://hl7.org/fhir/OperationDefinition/Patient-everything",
    }
}
"""The operations on single resources, by the type that has them."""
CONDITIONAL: Final = {
    "conditionalCreate": True,
    "conditionalUpdate": True,
    "conditionalDelete": "single",
}
"""The elements of every type in a provider that supports both searches and writes."""
SMART: Final = {
    "system": "http://terminology.hl7.org/CodeSystem/restful-security-service",
    "code": "SMART-on-FHIR",
}
"""The security service of a server that requires access tokens."""
OAUTH_URIS: Final = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
"""The extension with the addresses of the issuer (SMART App Launch 1.0)."""
PATCH_FORMATS: Final = (JSON_PATCH, FHIR_JSON)


class OAuthURIs(msgspec.Struct, frozen=True, kw_only=True):
    """
    The addresses of the issuer in the CapabilityStatement, both of which its extension requires.

    Clients that read them before `.well-known/smart-configuration` take a CapabilityStatement
    without them for that of an open server.
    """

    authorize: str
    token: str


def capability_elements(
    provider: DataProvider,
    fhir_version: FHIRVersion,
    *,
    guide: Guide | None,
    date: datetime,
    secured: bool,
) -> dict[str, Any]:
    """
    Return the elements of the CapabilityStatement of a FHIR version; no guide means no exports.

    `secured` states that callers need access tokens. The elements are the same at every base URL.
    The members of the largest one, `rest`, are already encoded, except `security`.
    """
    members = _rest(provider, fhir_version, guide=guide)
    rest: dict[str, Any] = {
        name: msgspec.Raw(msgspec.json.encode(value)) for name, value in members.items()
    }
    if secured:
        rest["security"] = {"service": [{"coding": [SMART]}]}
    elements = {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": format_instant(date),
        "kind": "instance",
        "software": {"name": "Helios", "version": version("helios-fhir")},
        "fhirVersion": load_definitions(fhir_version).label,
        "format": ["application/fhir+json", "json"],
        "rest": rest,
    }
    if isinstance(provider, SupportsWrites):
        elements["patchFormat"] = PATCH_FORMATS
    if guide:
        elements["instantiates"] = [guide.canonical("CapabilityStatement", "bulk-data")]
    return elements


def capability_statement(
    elements: Mapping[str, Any], *, base: str, oauth: OAuthURIs | None
) -> bytes:
    """
    Return the CapabilityStatement of a base URL as JSON, made of its other elements.

    `oauth` is None if access tokens are not needed, or their issuer is not known completely.
    """
    implementation = {"description": "Helios FHIR server", "url": base}
    rest = elements["rest"]
    if oauth is not None:
        uris = msgspec.structs.asdict(oauth).items()
        parts = [{"url": name, "valueUri": uri} for name, uri in uris]
        extension = {"url": OAUTH_URIS, "extension": parts}
        rest = {**rest, "security": {"extension": [extension], **rest["security"]}}
    return msgspec.json.encode({**elements, "rest": [rest], "implementation": implementation})


def _rest(
    provider: DataProvider, fhir_version: FHIRVersion, *, guide: Guide | None
) -> dict[str, Any]:
    interactions = [{"code": interaction.value} for interaction in _type_interactions(provider)]
    searches = search_capabilities(fhir_version) if isinstance(provider, SupportsSearch) else {}
    rest: dict[str, Any] = {
        "mode": "server",
        "resource": [
            _resource(name, provider, fhir_version, interactions, guide=guide)
            | searches.get(name, {})
            for name in sorted(load_definitions(fhir_version).types)
        ],
    }
    if system := list(_system_interactions(provider)):
        rest["interaction"] = [{"code": interaction.value} for interaction in system]
    if isinstance(provider, SupportsSearch):
        names = sorted(load_definitions(fhir_version).compartments)
        rest["compartment"] = [COMPARTMENT.format(name=name.lower()) for name in names]
    if guide:
        rest["operation"] = [_operation(guide, "export")]
    return rest


def _type_interactions(provider: DataProvider) -> Iterator[Interaction]:
    """Yield the interactions that every type has."""
    if not isinstance(provider, WithheldReads):
        yield Interaction.READ
    if isinstance(provider, SupportsHistory):
        yield from (Interaction.VREAD, Interaction.HISTORY_INSTANCE)
    if isinstance(provider, SupportsTypeHistory):
        yield Interaction.HISTORY_TYPE
    if isinstance(provider, SupportsWrites):
        yield from (Interaction.CREATE, Interaction.UPDATE, Interaction.PATCH)
        yield Interaction.DELETE
    if isinstance(provider, SupportsSearch):
        yield Interaction.SEARCH_TYPE


def _system_interactions(provider: DataProvider) -> Iterator[Interaction]:
    """Yield the interactions with the whole system."""
    if isinstance(provider, SupportsWrites):
        yield from (Interaction.TRANSACTION, Interaction.BATCH)
    if isinstance(provider, SupportsTypeHistory):
        yield Interaction.HISTORY_SYSTEM


def _resource(
    name: str,
    provider: DataProvider,
    fhir_version: FHIRVersion,
    interactions: list[dict[str, str]],
    *,
    guide: Guide | None,
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
        if fhir_version not in (FHIRVersion.R4, FHIRVersion.R4B):
            resource["conditionalPatch"] = True
    operations = list[dict[str, str]]()
    if guide and name in EXPORTS:
        operations.append(_operation(guide, EXPORTS[name]))
    if isinstance(provider, SupportsSearch) and name in EVERYTHING:
        operations.append(EVERYTHING[name])
    if operations:
        resource["operation"] = operations
    return resource


def _operation(guide: Guide, definition: str) -> dict[str, str]:
    return {"name": "export", "definition": guide.canonical("OperationDefinition", definition)}


@cache
def search_capabilities(version: FHIRVersion) -> Mapping[str, dict[str, Any]]:
    """
    Return the elements of `CapabilityStatement.rest.resource` about searches, by resource type.

    All listed parameters also work in `_typeFilter`, so that none has to be marked as not
    supported there (Bulk Data 3.0.0, operation-not-supported). The first call compiles all types.
    """
    types = sorted(load_definitions(version).types)
    parameters = {name: supported_parameters(version, name) for name in types}
    reverse_includes = defaultdict[str, list[str]](list)
    for name in types:
        for parameter in parameters[name]:
            for target in parameter.chains_to:
                reverse_includes[target].append(f"{name}:{parameter.code}")
    return {
        name: _search_elements(version, name, parameters[name], reverse_includes[name])
        for name in types
    }


def _search_elements(
    version: FHIRVersion,
    resource_type: str,
    parameters: Sequence[SupportedParameter],
    reverse_includes: list[str],
) -> dict[str, Any]:
    # If a code has several definitions, the first counts, as it does in searches.
    published = reversed(load_definitions(version).search_parameters(resource_type))
    definitions = {definition.code: definition.url for definition in published}
    elements = {
        "searchParam": [
            {
                "name": parameter.code,
                "definition": definitions[parameter.code],
                "type": parameter.type,
            }
            for parameter in parameters
        ],
        "searchInclude": [
            "*",
            *(f"{resource_type}:{p.code}" for p in parameters if p.chains_to),
        ],
        "searchRevInclude": ["*", *reverse_includes],
    }
    return {name: values for name, values in elements.items() if values}
