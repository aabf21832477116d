"""
Binary resources, and the attachments that link to them.

A Binary of a patient is exported by way of the resource that links to it, not as a Binary (Bulk
Data 2.0.0, Bulk Data Output File Requests, Attachments). The link is made an absolute URL.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

import msgspec

from helios_core.export.contents import ExportContents, Reference
from helios_core.export.pipeline.reference_notes import BINARY, NotedReferences, read_notes
from helios_core.fhir.definitions import load_definitions
from helios_core.fhir.references import base_urls, split_reference
from helios_core.model.exports import ExportView
from helios_core.model.jobs import Lease
from helios_core.storage.backends import Backends
from helios_core.storage.data_provider import Batch, Damaged
from helios_core.storage.joined_lines import joined_text

_RELATIVE_URL = re.compile(rb'"url":"Binary\\?/')
_URL_PREFIX = b'"url":"Binary'

UNLINKED = (
    "its securityContext makes it a patient's, so it is not exported as a Binary, and no exported "
    "attachment links to it"
)

Rewrite = Callable[[Sequence[bytes]], Sequence[bytes]]
"""A function that returns changed lines, or the same object if no line changes."""


def attachment_rewriter(base_url: str) -> Rewrite:
    """Return the function that makes relative URLs of Binary resources absolute."""
    replacement = b'"url":"' + msgspec.json.encode(base_url.rstrip("/"))[1:-1] + b"/Binary/"

    def rewrite(lines: Sequence[bytes]) -> Sequence[bytes]:
        if _URL_PREFIX not in joined_text(lines):
            return lines
        return [
            _RELATIVE_URL.sub(lambda _: replacement, line) if _URL_PREFIX in line else line
            for line in lines
        ]

    return rewrite


async def unlinked_binaries(
    backends: Backends, lease: Lease, view: ExportView, batches: AsyncIterator[Batch]
) -> AsyncGenerator[Batch]:
    """
    Yield the Binary resources that belong to no patient.

    A Binary belongs to a patient if a resource in a patient's compartment links to it, or if its
    securityContext is in a patient's compartment or may have been before it was deleted. It is
    reported as damaged if only the securityContext makes it a patient's.
    """
    membership = ExportContents(backends.data_provider, view)
    async with read_notes(backends, lease, BINARY) as notes:
        async for batch in batches:
            public = await _public(batch, view, membership, notes)
            del batch
            yield public
            del public  # a large one must not outlive the reading of the next one


class _Context(msgspec.Struct):
    reference: str | None = None


class _Binary(msgspec.Struct, rename="camel"):
    id: str
    security_context: _Context = msgspec.field(default_factory=_Context)


async def _public(
    batch: Batch, view: ExportView, membership: ExportContents, notes: NotedReferences
) -> Batch:
    """Return a batch without the Binary resources of patients."""
    lines, damaged = list[bytes](), list(batch.damaged)
    binaries = [(line, _decode(line)) for line in batch.lines]
    linked = await notes.among([binary.id for _, binary in binaries])
    contexts = {_context(binary, view) for _, binary in binaries}
    private = await _private(membership, view, {context for context in contexts if context})
    for line, binary in binaries:
        if binary.id in linked:
            continue
        if _context(binary, view) in private:
            damaged.append(Damaged(resource_type=BINARY, id=binary.id, reason=UNLINKED))
        else:
            lines.append(line)
    return Batch(lines=lines, damaged=damaged)


def _decode(line: bytes) -> _Binary:
    """Return a decoded line, or an empty one: a damaged line passes here and is reported later."""
    try:
        return msgspec.json.decode(line, type=_Binary)
    except msgspec.DecodeError:
        return _Binary(id="")


def _context(binary: _Binary, view: ExportView) -> Reference | None:
    return split_reference(
        binary.security_context.reference or "", base_urls(view.request.base_url)
    )


async def _private(
    membership: ExportContents, view: ExportView, contexts: set[Reference]
) -> set[Reference]:
    """Return the contexts in a patient's compartment, and deleted ones that may have been."""
    types = load_definitions(view.request.fhir_version).compartment_types("Patient")
    possible = {context for context in contexts if context[0] in types}
    of_patients = await membership.of_any_patient(possible)
    return of_patients | (possible - await membership.existing(possible))
