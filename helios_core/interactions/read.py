"""Read and vread: one resource, in its current or an earlier version (FHIR R4, http.html#read)."""

from typing import Final

from helios_core.errors import ResourceDeleted, ResourceNotFound
from helios_core.interactions.callers import Caller, Interaction, authorize
from helios_core.storage.data_provider import DataProvider, StoredVersion, SupportsHistory
from helios_core.storage.resource_keys import TypeKey

MAX_VERSION_DIGITS: Final = 17
"""Longer version numbers are not looked up: storage keeps 64-bit numbers."""


async def read(
    provider: DataProvider, caller: Caller, resource_type: str, resource_id: str
) -> StoredVersion:
    """
    Return the current version of a resource; its content is never None.

    Raises:
        ResourceNotFound: There is no such resource or type.
        ResourceDeleted: It was deleted.
    """
    authorize(caller, Interaction.READ, resource_type)
    stored = require_found(
        await provider.get(TypeKey.of(caller, resource_type).resource(resource_id))
    )
    require_content(stored)
    return stored


async def vread(
    provider: SupportsHistory,
    caller: Caller,
    resource_type: str,
    resource_id: str,
    version_id: str,
) -> StoredVersion:
    """
    Return one version of a resource; its content is never None.

    Raises:
        ResourceNotFound: There is no such version, resource or type.
        ResourceDeleted: The version is a deletion.
    """
    authorize(caller, Interaction.VREAD, resource_type)
    if not (
        version_id.isascii() and version_id.isdigit() and len(version_id) <= MAX_VERSION_DIGITS
    ):
        raise ResourceNotFound("There is no such version; versions are whole numbers.")
    stored = require_found(
        await provider.get_version(
            TypeKey.of(caller, resource_type).resource(resource_id), int(version_id)
        )
    )
    require_content(stored)
    return stored


def require_found(stored: StoredVersion | None) -> StoredVersion:
    """
    Return a version after checking that there is one.

    Raises:
        ResourceNotFound: It is None.
    """
    if stored is None:
        raise ResourceNotFound("There is no such resource, or no such version of it.")
    return stored


def require_content(stored: StoredVersion) -> bytes:
    """
    Return the content of a version.

    Raises:
        ResourceDeleted: The version is a deletion.
    """
    if stored.content is None:
        raise ResourceDeleted(
            "The resource was deleted; earlier versions are listed under its _history."
        )
    return stored.content
