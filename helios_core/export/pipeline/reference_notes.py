"""
Reference notes: the references in a shard's lines, stored for the shards of later phases.

The notes of a shard are lines of `Type/id`, compressed with gzip.

References are matched by patterns in the bytes of compact JSON, which is not parsed. The content
of a string cannot look like a reference, because its quotes are escaped.
"""

import gzip
import re
import sqlite3
import zlib
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager

import msgspec

from helios_core.export.ndjson import GZIP_WINDOW_BITS
from helios_core.export.pipeline.scratch import ScratchDatabase, scratch_database
from helios_core.fhir.compartments import patients_of
from helios_core.fhir.references import base_urls, decode_links
from helios_core.model.exports import ExportRequest, Level
from helios_core.model.jobs import Lease
from helios_core.storage.backends import Backends
from helios_core.storage.joined_lines import joined_text

BINARY = "Binary"

SLASH = rb"\\?/"
"""The pattern of a slash in JSON, which may be escaped."""

BYTES_PER_INSERT = 1024 * 1024
"""Compressed notes are stored in the scratch database in batches of about this size."""

MAX_PENDING = 50_000
"""How many different references are collected in memory before they are compressed."""

_ID = rb"[A-Za-z0-9\-.]{1,64}"
_SCHEMA = "CREATE TABLE noted (id TEXT PRIMARY KEY) WITHOUT ROWID;"
_INSERT = "INSERT OR IGNORE INTO noted VALUES (?)"
_PAGE = "SELECT id FROM noted WHERE id > ? ORDER BY id LIMIT ?"
_AMONG = "SELECT id FROM noted WHERE id IN (SELECT value FROM json_each(?))"


def base_url_pattern(base_url: str) -> bytes:
    """Return a pattern that matches the server's base URL in JSON, or nothing."""
    alternatives = [re.escape(base.rstrip("/") + "/").encode() for base in base_urls(base_url)]
    return b"".join(b"(?:%b)?" % url.replace(b"/", SLASH) for url in alternatives)


class ReferenceNotes:
    """
    Collects the references in the lines of one shard.

    Duplicates are removed only among `MAX_PENDING` references at a time.
    """

    def __init__(self, request: ExportRequest) -> None:
        self._request = request
        self._pending = set[bytes]()
        self._compressed = list[bytes]()
        base = base_url_pattern(request.base_url)
        types = b"|".join(name.encode() for name in request.referenced_types)
        target = rb'((?:%b)%b%b)["\\/]'
        self._referenced = (
            re.compile(rb'"reference":"%b' % base + target % (types, SLASH, _ID))
            if types
            else None
        )
        self._binary_links = (
            re.compile(rb'"(?:url|reference)":"%b' % base + target % (b"Binary", SLASH, _ID))
            if request.level is Level.SYSTEM
            else None
        )

    def add(self, lines: Sequence[bytes]) -> None:
        """Note the references in some lines."""
        text = joined_text(lines)
        if self._referenced is not None:
            self._pending.update(self._referenced.findall(text))
        if self._binary_links is not None and b"Binary" in text:
            for line in lines:
                if b"Binary" in line and (links := self._binary_links.findall(line)):
                    self._add_links(line, links)
        if len(self._pending) >= MAX_PENDING:
            self._compress()

    def to_bytes(self) -> bytes:
        """Return the notes as `read_notes` reads them; empty if nothing was noted."""
        self._compress()
        return b"".join(self._compressed)

    def _compress(self) -> None:
        if self._pending:
            lines = sorted({reference.replace(b"\\", b"") for reference in self._pending})
            self._compressed.append(gzip.compress(b"\n".join((*lines, b"")), compresslevel=1))
            self._pending.clear()

    def _add_links(self, line: bytes, links: Iterable[bytes]) -> None:
        """Note the Binary resources that a line links to, if the line may be a patient's."""
        request = self._request
        try:
            resource = decode_links(line)
            may_be_patients = bool(
                patients_of(resource, request.fhir_version, base_urls(request.base_url))
            )
        except (msgspec.DecodeError, KeyError):
            may_be_patients = True
        if may_be_patients:
            self._pending.update(links)


class NotedReferences:
    """The ids of one type that earlier phases of a job noted, in a scratch database."""

    def __init__(self, scratch: ScratchDatabase) -> None:
        self._scratch = scratch

    async def page(self, after: str, count: int) -> list[str]:
        """Return the next ids in ascending order, at most `count`; start with an empty string."""
        return await self._scratch.run(_page, after, count)

    async def among(self, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` that were noted."""
        return await self._scratch.run(_among, ids)


@asynccontextmanager
async def read_notes(
    backends: Backends, lease: Lease, resource_type: str
) -> AsyncGenerator[NotedReferences]:
    """Read the ids of one type from all notes of a job."""
    job = lease.job
    async with scratch_database(_SCHEMA) as scratch:
        async with aclosing(_batched(backends.job_store.notes(job.tenant, job.id))) as batches:
            async for batch in batches:
                await scratch.run(_insert, batch, resource_type)
        yield NotedReferences(scratch)


async def _batched(notes: AsyncGenerator[bytes]) -> AsyncGenerator[list[bytes]]:
    """Yield notes in batches: most are small, and each insertion is a call in a thread."""
    batch, size = list[bytes](), 0
    async with aclosing(notes):
        async for note in notes:
            batch.append(note)
            size += len(note)
            if size >= BYTES_PER_INSERT:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _insert(connection: sqlite3.Connection, notes: Iterable[bytes], resource_type: str) -> None:
    id_pattern = re.compile(rb"^%b/(.*)$" % resource_type.encode(), re.MULTILINE)
    connection.execute("BEGIN")
    for text in _decompressed(notes):
        connection.executemany(_INSERT, [(noted.decode(),) for noted in id_pattern.findall(text)])
    connection.execute("COMMIT")


def _decompressed(notes: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the text of each gzip member; its size is bounded by `MAX_PENDING`."""
    for note in notes:
        remaining = note
        while remaining:
            member = zlib.decompressobj(wbits=GZIP_WINDOW_BITS)
            yield member.decompress(remaining)
            remaining = member.unused_data


def _page(connection: sqlite3.Connection, after: str, count: int) -> list[str]:
    return [resource_id for (resource_id,) in connection.execute(_PAGE, (after, count))]


def _among(connection: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    rows = connection.execute(_AMONG, (msgspec.json.encode(list(ids)).decode(),))
    return {resource_id for (resource_id,) in rows}
