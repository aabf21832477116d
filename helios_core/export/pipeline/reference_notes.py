"""
What shards note for those of later phases: `Type/id` of what is referenced, one a line, packed.

References are taken from the bytes as they leave: from compact JSON, in which no text can look
like a reference, since a quote inside of a string is escaped.
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
from helios_core.fhir.references import base_urls
from helios_core.model.exports import ExportRequest, Level
from helios_core.model.jobs import Lease
from helios_core.storage.backends import Backends
from helios_core.storage.joined_lines import joined_text

BINARY = "Binary"

PACKED_AT_ONCE = 1024 * 1024
"""How many bytes of packed notes are read before they are looked at."""

NOTED_AT_ONCE = 50_000
"""How many different references of a shard are in memory before they are packed."""

_ID = rb"[A-Za-z0-9\-.]{1,64}"
_SCHEMA = "CREATE TABLE noted (id TEXT PRIMARY KEY) WITHOUT ROWID;"
_NOTE = "INSERT OR IGNORE INTO noted VALUES (?)"
_NEXT = "SELECT id FROM noted WHERE id > ? ORDER BY id LIMIT ?"


def base_url_pattern(base_url: str) -> bytes:
    """Give a pattern of the server's base URL in JSON, slashes escaped or not, or of nothing."""
    alternatives = [re.escape(base.rstrip("/") + "/").encode() for base in base_urls(base_url)]
    return b"".join(b"(?:%b)?" % each.replace(b"/", SLASH) for each in alternatives)


SLASH = rb"\\?/"
"""A slash as JSON may have it."""


class ReferenceNotes:
    """
    Collects what the lines of one shard refer to, each once.

    Of very many some are there again: what is packed is not looked at any more.
    """

    def __init__(self, request: ExportRequest) -> None:
        self._request = request
        self._found = set[bytes]()
        self._packed = list[bytes]()
        base = base_url_pattern(request.base_url)
        types = b"|".join(each.encode() for each in request.referenced_types)
        target = rb'((?:%b)%b%b)["\\/]'
        self._context = (
            re.compile(rb'"reference":"%b' % base + target % (types, SLASH, _ID))
            if types
            else None
        )
        self._linked = (
            re.compile(rb'"(?:url|reference)":"%b' % base + target % (b"Binary", SLASH, _ID))
            if request.level is Level.SYSTEM
            else None
        )

    def add(self, lines: Sequence[bytes]) -> None:
        """Note what some lines refer to."""
        text = joined_text(lines)
        if self._context is not None:
            self._found.update(self._context.findall(text))
        if self._linked is not None and b"Binary" in text:
            for line in lines:
                if b"Binary" in line and (found := self._linked.findall(line)):
                    self._take_links(line, found)
        if len(self._found) >= NOTED_AT_ONCE:
            self._pack()

    def to_bytes(self) -> bytes:
        """Give what was noted, for `read_notes` to read; nothing at all if it is nothing."""
        self._pack()
        return b"".join(self._packed)

    def _pack(self) -> None:
        if self._found:
            lines = sorted({each.replace(b"\\", b"") for each in self._found})
            self._packed.append(gzip.compress(b"\n".join((*lines, b"")), compresslevel=1))
            self._found.clear()

    def _take_links(self, line: bytes, found: Iterable[bytes]) -> None:
        """A Binary is a patient's where something in a patient's compartment points to it."""
        request = self._request
        try:
            resource = msgspec.json.decode(line)
            private = patients_of(resource, request.fhir_version, base_urls(request.base_url))
        except (msgspec.DecodeError, KeyError):
            private = ("unreadable, so in doubt",)
        if private:
            self._found.update(found)


class NotedReferences:
    """What the earlier phases of a job noted of one type, where there is room for it."""

    def __init__(self, room: ScratchDatabase) -> None:
        self._room = room

    async def ids(self, after: str, count: int) -> list[str]:
        """Give the next ids in order."""
        return await self._room.run(_next, after, count)

    async def among(self, ids: Sequence[str]) -> set[str]:
        """Give those of `ids` that were noted."""
        return await self._room.run(_among, ids)


@asynccontextmanager
async def read_notes(
    backends: Backends, lease: Lease, resource_type: str
) -> AsyncGenerator[NotedReferences]:
    """Read the notes of a job about one type."""
    job = lease.job
    async with scratch_database(_SCHEMA) as room:
        async with aclosing(_gathered(backends.job_store.notes(job.tenant, job.id))) as several:
            async for notes in several:
                await room.run(_note, notes, resource_type)
        yield NotedReferences(room)


async def _gathered(notes: AsyncGenerator[bytes]) -> AsyncGenerator[list[bytes]]:
    """Give some at a time: most are small, and each look at the room is a hop to a thread."""
    several, size = list[bytes](), 0
    async with aclosing(notes):
        async for each in notes:
            several.append(each)
            size += len(each)
            if size >= PACKED_AT_ONCE:
                yield several
                several, size = [], 0
    if several:
        yield several


def _note(connection: sqlite3.Connection, several: Sequence[bytes], resource_type: str) -> None:
    named = re.compile(rb"^%b/(.*)$" % resource_type.encode(), re.MULTILINE)
    connection.execute("BEGIN")
    for text in _unpacked(several):
        connection.executemany(_NOTE, [(each.decode(),) for each in named.findall(text)])
    connection.execute("COMMIT")


def _unpacked(several: Iterable[bytes]) -> Iterator[bytes]:
    """Give the text of each member: as much as was noted before it was packed."""
    for packed in several:
        left = packed
        while left:
            member = zlib.decompressobj(wbits=GZIP_WINDOW_BITS)
            yield member.decompress(left)
            left = member.unused_data


def _next(connection: sqlite3.Connection, after: str, count: int) -> list[str]:
    return [found for (found,) in connection.execute(_NEXT, (after, count))]


def _among(connection: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    query = "SELECT id FROM noted WHERE id IN (SELECT value FROM json_each(?))"
    rows = connection.execute(query, (msgspec.json.encode(list(ids)).decode(),))
    return {found for (found,) in rows}
