"""Callers, and what they may do."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from helios_core.errors import Forbidden, ResourceNotFound
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.media_types import FHIR_JSON
from helios_core.model.principals import Principal
from helios_core.model.scopes import scopes_of
from helios_core.storage.file_authorizer import lacking
from helios_core.storage.permitted_reads import usable


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The client of an admitted request, with its tenant, FHIR version and base URL."""

    tenant: str
    fhir_version: FHIRVersion
    base: str
    """The public base URL, without a final slash."""
    media_type: str = FHIR_JSON
    """The media type of responses; it repeats the FHIR version if the client named one."""
    principal: Principal | None = None
    """The client that the access token identifies; None if the server requires no tokens."""


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


NEEDS: Final[Mapping[str, str]] = {
    "read": "r",
    "vread": "r",
    "history-instance": "r",
    "update": "u",
    # The tests and the result of a patch reveal what is stored.
    "patch": "ur",
    "delete": "d",
    "create": "c",
    "search-type": "s",
    "search-compartment": "s",
    "history-type": "s",
    "operation": "r",
    # Decided for each type or for each entry.
    "search-system": "",
    "history-system": "",
    "batch": "",
    "transaction": "",
}
"""The letters of scopes that each interaction needs for its type (SMART App Launch 2.2)."""


def authorize(caller: Caller, interaction: Interaction, resource_type: str | None = None) -> None:
    """
    Raise unless a caller may perform an interaction.

    Every interaction is checked here before it uses the data provider, whether it is a request of
    its own or an entry of a Bundle. A conditional change is checked as a change, and its condition
    as a search. This decides by resource type; the data provider of the request enforces scopes
    that are limited to some resources of a type.

    Raises:
        ResourceNotFound: The caller's FHIR version has no such resource type.
        Forbidden: The scopes of the token do not allow it.
    """
    if resource_type is None:
        return
    require_type(resource_type, caller.fhir_version)
    if missing := _missing(caller, interaction, resource_type):
        raise Forbidden(lacking(resource_type, missing))


def may(caller: Caller, interaction: Interaction, resource_type: str) -> bool:
    """Return whether a caller may perform an interaction with some resources of a type."""
    return not _missing(caller, interaction, resource_type)


def _missing(caller: Caller, interaction: Interaction, resource_type: str) -> str:
    """Return the letters that a caller lacks; a scope with an unsupported search grants none."""
    if caller.principal is None:
        return ""
    scopes, version = scopes_of(caller.principal.scopes), caller.fhir_version
    return "".join(
        letter
        for letter in NEEDS[interaction]
        if usable(version, resource_type, scopes.grant(resource_type, letter)).is_nothing
    )


def require_type(resource_type: str, version: FHIRVersion) -> str:
    """
    Return a resource type after checking that a FHIR version has it.

    Raises:
        ResourceNotFound: It does not.
    """
    if resource_type not in load_definitions(version).root_elements:
        raise ResourceNotFound(
            f"{resource_type[:64]!r} is not a resource type of FHIR {version}; /metadata lists "
            "what the server offers."
        )
    return resource_type
