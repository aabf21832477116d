"""Where the resources of a shard come from, by what the shard adds to its export."""

from collections.abc import AsyncGenerator, AsyncIterator

from msgspec.structs import replace

from helios_core.export.filters import read
from helios_core.export.pipeline.binaries import unlinked
from helios_core.export.pipeline.provenance import Provenances
from helios_core.export.pipeline.reference_notes import BINARY
from helios_core.export.pipeline.referenced import referenced
from helios_core.model.exports import ExportView, Level, Purpose
from helios_core.model.jobs import Lease
from helios_core.storage.backends import Backends
from helios_core.storage.data_provider import Batch


def filtered(view: ExportView, purpose: Purpose) -> bool:
    """Whether the filters of the view are asked about what a shard reads or names."""
    if purpose is Purpose.ASSOCIATED:
        return view.request.associated is None
    return purpose in (Purpose.VIEW, Purpose.OLDER, Purpose.DELETIONS)


def batches_of(
    backends: Backends, lease: Lease, view: ExportView, *, batch_bytes: int
) -> AsyncIterator[Batch]:
    """Give what a shard reads, before it is filtered and trimmed."""
    provider, shard = backends.provider, lease.shard
    match shard.purpose:
        case Purpose.ASSOCIATED:
            return Provenances(provider, view, batch_bytes=batch_bytes).of(shard)
        case Purpose.REFERENCED:
            return referenced(backends, lease, view)
        case Purpose.DELETIONS:
            return _nothing()
        case Purpose.LINKS:
            return provider.read(linking_view(view), shard, batch_bytes=batch_bytes)
        case _:
            found = view.filters.get(shard.resource_type)
            batches = read(provider, view, shard, found=found, batch_bytes=batch_bytes)
            kept_back = shard.resource_type == BINARY and shard.phase > 0
            return unlinked(backends, lease, view, batches) if kept_back else batches


def linking_view(view: ExportView) -> ExportView:
    """Give everything that is a patient's, as of the same instant: it may point to a Binary."""
    request = replace(view.request, level=Level.PATIENT, since=None, until=None)
    return replace(view, request=request, cohort=None, newcomers=None, filters={})


async def _nothing() -> AsyncGenerator[Batch]:
    for batch in tuple[Batch]():
        yield batch
