"""Stored content that is not what was written: how a provider tells of it."""

from helios_core.data_providers import Damaged, StoredVersion
from helios_core.errors import BackendError
from helios_core.hashes import line_hash


def damaged_line(resource_type: str, resource_id: str, line: bytes | None) -> Damaged:
    """Give the line of an error file about a line that is missing or not what was written."""
    reason = (
        "its content is missing from the database"
        if line is None
        else "its content in the database is not what was written"
    )
    return Damaged(resource_type=resource_type, id=resource_id, reason=reason)


def checked(stored: StoredVersion, *, deleted: bool, stored_hash: int) -> StoredVersion:
    """
    Give a version as it was written, `stored_hash` being the `line_hash` of its content.

    Raises:
        BackendError: It is not what was written.
    """
    content = stored.content
    if not deleted and (content is None or line_hash(content) != stored_hash):
        raise BackendError(
            f"the stored content of {stored.resource_type}/{stored.id}, version"
            f" {stored.version_id}, is damaged; restore it from a backup or store the resource"
            " again"
        )
    return stored
