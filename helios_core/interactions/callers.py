"""Callers, and what they may do."""

from enum import StrEnum

import msgspec

from helios_core.errors import ResourceNotFound
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.media_types import FHIR_JSON


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever makes an admitted request: for which tenant, in which FHIR version, at which URL."""

    tenant: str
    fhir_version: FHIRVersion
    base: str
    """The public base URL, without a final slash."""
    media_type: str = FHIR_JSON
    """The media type of responses; it repeats the FHIR version if the client named one."""


class Interaction(StrEnum):
    """The interactions served, by their codes (FHIR R5, valueset-restful-interaction)."""

    READ = "read"
    VREAD = "vread"
    UPDATE = "update"
    PATCH = "patch"
    DELETE = "delete"
    HISTORY_INSTANCE = "history-instance"
    HISTORY_TYPE = "history-type"
    HISTORY_SYSTEM = "history-system"
    CREATE = "create"
    SEARCH_TYPE = "search-type"
    SEARCH_COMPARTMENT = "search-compartment"
    OPERATION = "operation"
    BATCH = "batch"
    TRANSACTION = "transaction"


def authorize(caller: Caller, interaction: Interaction, resource_type: str | None = None) -> None:  # noqa: ARG001
    """
    Raise unless a caller may perform an interaction.

    Every interaction passes through here before it uses the storage, whether it is a request of
    its own or an entry of a Bundle; a conditional change passes as the change that it is. All
    callers have the same permissions: every interaction with every type of their tenant and FHIR
    version.

    Raises:
        ResourceNotFound: The caller's FHIR version has no such resource type.
    """
    if resource_type is not None:
        require_type(resource_type, caller.fhir_version)


def require_type(resource_type: str, version: FHIRVersion) -> str:
    """
    Return a resource type after checking that a FHIR version has it.

    Raises:
        ResourceNotFound: It does not.
    """
    if resource_type not in load_definitions(version).root_elements:
        raise ResourceNotFound(f"{resource_type[:64]!r} is not a resource type of FHIR {version}.")
    return resource_type
