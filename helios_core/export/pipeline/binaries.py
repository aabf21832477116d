"""
Attachments and the Binary resources they are about.

What is a patient's leaves as the resource that points to it, not as a Binary (Bulk Data 2.0.0,
Bulk Data Output File Requests, Attachments), and its address is absolute.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

import msgspec

from helios_core.export.membership import ExportMembership, Reference
from helios_core.export.pipeline.reference_notes import BINARY, NotedReferences, read_notes
from helios_core.fhir.definitions import load_definitions
from helios_core.fhir.references import base_urls, split_reference
from helios_core.model.exports import ExportView
from helios_core.model.jobs import Lease
from helios_core.storage.backends import Backends
from helios_core.storage.data_provider import Batch, Damaged
from helios_core.storage.joined_lines import joined_text

_RELATIVE = re.compile(rb'"url":"Binary\\?/')
_MARK = b'"url":"Binary'

UNLINKED = (
    "nothing that is exported shows it: it is a patient's by its securityContext, so it is not "
    "exported as a Binary, and no attachment points to it"
)

Rewrite = Callable[[Sequence[bytes]], Sequence[bytes]]


def attachment_rewriter(base_url: str) -> Rewrite:
    """Give what puts the base URL before relative addresses of Binary resources in attachments."""
    replacement = b'"url":"' + msgspec.json.encode(base_url.rstrip("/"))[1:-1] + b"/Binary/"

    def rewritten(lines: Sequence[bytes]) -> Sequence[bytes]:
        if _MARK not in joined_text(lines):
            return lines
        return [
            _RELATIVE.sub(lambda _: replacement, line) if _MARK in line else line for line in lines
        ]

    return rewritten


class _Context(msgspec.Struct):
    reference: str | None = None


class _Binary(msgspec.Struct, rename="camel"):
    id: str
    security_context: _Context = msgspec.field(default_factory=_Context)


async def unlinked_binaries(
    backends: Backends, lease: Lease, view: ExportView, batches: AsyncIterator[Batch]
) -> AsyncGenerator[Batch]:
    """
    Give those Binary resources that are no patient's.

    One is a patient's if something in a patient's compartment points to it, or if its security
    context is, or may have been, in one. What no attachment leads to is reported.
    """
    membership = ExportMembership(backends.data_provider, view)
    async with read_notes(backends, lease, BINARY) as notes:
        async for batch in batches:
            public = await _public(batch, view, membership, notes)
            del batch
            yield public
            del public  # a large one must not outlive the reading of the next one


async def _public(
    batch: Batch, view: ExportView, membership: ExportMembership, notes: NotedReferences
) -> Batch:
    """Give those of a batch that are no patient's."""
    lines, damaged = list[bytes](), list(batch.damaged)
    described = [(line, _decode(line)) for line in batch.lines]
    pointed_at = await notes.among([binary.id for _, binary in described])
    contexts = {_context(binary, view) for _, binary in described}
    private = await _private(membership, view, {each for each in contexts if each})
    for line, binary in described:
        if _context(binary, view) not in private and binary.id not in pointed_at:
            lines.append(line)
        elif binary.id not in pointed_at:
            unshown = Damaged(resource_type=BINARY, id=binary.id, reason=UNLINKED)
            damaged.append(unshown)
    return Batch(lines=lines, damaged=damaged)


def _decode(line: bytes) -> _Binary:
    """Read a line; one that cannot be read cannot be a patient's, and ends as damaged later."""
    try:
        return msgspec.json.decode(line, type=_Binary)
    except msgspec.DecodeError:
        return _Binary(id="")


def _context(binary: _Binary, view: ExportView) -> Reference | None:
    return split_reference(
        binary.security_context.reference or "", base_urls(view.request.base_url)
    )


async def _private(
    membership: ExportMembership, view: ExportView, contexts: set[Reference]
) -> set[Reference]:
    """Give the contexts that are in some patient's compartment; what is gone may have been."""
    types = load_definitions(view.request.fhir_version).compartment_types("Patient")
    possible = {each for each in contexts if each[0] in types}
    known = await membership.private(possible)
    return known | (possible - await membership.existing(possible))
