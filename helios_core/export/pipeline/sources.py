"""Where the resources of a shard come from, by what the shard adds to its export."""

from collections.abc import AsyncIterator

from msgspec.structs import replace

from helios_core.export.filters import read_filtered
from helios_core.export.pipeline.binaries import unlinked_binaries
from helios_core.export.pipeline.provenance import ProvenanceFinder
from helios_core.export.pipeline.reference_notes import BINARY
from helios_core.export.pipeline.referenced import read_referenced
from helios_core.model.exports import ExportView, Level, ShardPurpose
from helios_core.model.jobs import Lease
from helios_core.storage.backends import Backends
from helios_core.storage.data_provider import Batch


def is_filtered(view: ExportView, purpose: ShardPurpose) -> bool:
    """Whether the filters of the view are asked about what a shard reads or names."""
    if purpose is ShardPurpose.ASSOCIATED:
        return view.request.associated is None
    return purpose in (ShardPurpose.VIEW, ShardPurpose.OLDER, ShardPurpose.DELETIONS)


def read_source(
    backends: Backends, lease: Lease, view: ExportView, *, batch_bytes: int
) -> AsyncIterator[Batch]:
    """Give what a shard reads, before it is filtered and trimmed."""
    provider, shard = backends.data_provider, lease.shard
    match shard.purpose:
        case ShardPurpose.ASSOCIATED:
            return ProvenanceFinder(provider, view, batch_bytes=batch_bytes).of(shard)
        case ShardPurpose.REFERENCED:
            return read_referenced(backends, lease, view)
        case ShardPurpose.LINKS:
            return provider.read(reference_view(view), shard, batch_bytes=batch_bytes)
        case _:
            found = view.filters.get(shard.resource_type)
            batches = read_filtered(provider, view, shard, found=found, batch_bytes=batch_bytes)
            kept_back = shard.resource_type == BINARY and shard.phase > 0
            return unlinked_binaries(backends, lease, view, batches) if kept_back else batches


def reference_view(view: ExportView) -> ExportView:
    """Give everything that is a patient's, as of the same instant: it may point to a Binary."""
    request = replace(view.request, level=Level.PATIENT, since=None, until=None)
    return replace(view, request=request, cohort=None, newcomers=None, filters={})
