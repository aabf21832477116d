"""Stored content that is not what was written: how a provider detects and reports it."""

import re
from collections.abc import Iterable
from itertools import accumulate, pairwise

import msgspec
from xxhash import xxh3_64_intdigest

from helios_core.errors import BackendError
from helios_core.hashes import HASH_MODULUS, line_hash
from helios_core.storage.data_provider import Batch, Damaged, StoredVersion
from helios_core.storage.joined_lines import JoinedLines

DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""The exceptions raised when a line cannot be decoded as JSON."""

UNKNOWN_ID = "(unknown)"
"""The id in a report about resources of which not even the ids can be read."""

_ID = re.compile(rb'\{"resourceType":"[A-Za-z]+","id":"([A-Za-z0-9\-.]{1,64})"')


def damage_of(resource_type: str, resource_id: str, line: bytes | None) -> Damaged:
    """Return the report about a stored line that is missing (None) or not what was written."""
    reason = (
        "its content is missing from the database"
        if line is None
        else "its content in the database is not what was written"
    )
    return Damaged(resource_type=resource_type, id=resource_id, reason=reason)


def shortfall_of(resource_type: str, *, found: int, expected: int) -> Damaged:
    """Return the report that versions of a type are missing, or are not what was written."""
    reason = (
        f"part of what is stored of this type is damaged ({found} of {expected} versions can be "
        "read there); some of it may be missing from the output, and some of it out of date"
    )
    return Damaged(resource_type=resource_type, id=UNKNOWN_ID, reason=reason)


def is_line_of(line: bytes, resource_type: str, resource_id: str) -> bool:
    """Return whether a line begins with the type and the id of a resource."""
    return line.startswith(f'{{"resourceType":"{resource_type}","id":"{resource_id}"'.encode())


def damaged_json(resource_type: str, line: bytes) -> Damaged:
    """Return the report for a line that cannot be decoded."""
    id_match = _ID.match(line)
    return Damaged(
        resource_type=resource_type,
        id=id_match[1].decode() if id_match else UNKNOWN_ID,
        reason="its stored content cannot be read as JSON",
    )


def verified_batch(text: bytes, sizes: Iterable[int], hash_sum: int) -> Batch | None:
    """
    Return lines that a database joined, or None if they are not those that were written.

    `sizes` are those of the lines, which have a newline between them; `hash_sum` is the sum of
    the `line_hash` of each, modulo 2^64.
    """
    ends = list(accumulate(size + 1 for size in sizes))
    if ends[-1:] != [len(text) + 1]:
        return None
    view = memoryview(text)
    digests = [xxh3_64_intdigest(view[begin : end - 1]) for begin, end in pairwise((0, *ends))]
    if (hash_sum - sum(digests)) % HASH_MODULUS:
        return None
    return Batch(lines=JoinedLines(text, ends), digests=digests)


def verified_version(stored: StoredVersion, *, deleted: bool, stored_hash: int) -> StoredVersion:
    """
    Return a version after checking that it is what was written.

    `stored_hash` is the `line_hash` of the content that was written.

    Raises:
        BackendError: It is not what was written.
    """
    content = stored.content
    intact = deleted or (
        content is not None
        and line_hash(content) == stored_hash
        and is_line_of(content, stored.resource_type, stored.id)
        and f'"versionId":"{stored.version_id}"'.encode() in content
    )
    if not intact:
        raise BackendError(
            f"the stored content of a resource of type {stored.resource_type}, version"
            f" {stored.version_id}, is damaged; restore it from a backup or store the resource"
            " again: an export of its type names it"
        )
    return stored
