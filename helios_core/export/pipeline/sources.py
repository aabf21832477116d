"""Read the resources of a shard, depending on its purpose."""

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
    """Return whether the filters of a view apply to the resources or deletions of a shard."""
    if purpose is ShardPurpose.ASSOCIATED:
        return view.request.associated is None
    return purpose in (ShardPurpose.VIEW, ShardPurpose.OLDER, ShardPurpose.DELETIONS)


def read_source(
    backends: Backends, lease: Lease, view: ExportView, *, batch_bytes: int
) -> AsyncIterator[Batch]:
    """Read the resources of a shard, before they are reduced."""
    provider, shard = backends.data_provider, lease.shard
    match shard.purpose:
        case ShardPurpose.ASSOCIATED:
            return ProvenanceFinder(provider, view, batch_bytes=batch_bytes).find(shard)
        case ShardPurpose.REFERENCED:
            return read_referenced(backends, lease, view)
        case ShardPurpose.LINKS:
            return provider.read(linking_view(view), shard, batch_bytes=batch_bytes)
        case _:
            filter_ = view.filters.get(shard.resource_type)
            batches = read_filtered(
                provider, view, shard, filter_=filter_, batch_bytes=batch_bytes
            )
            if shard.resource_type == BINARY and shard.phase > 0:
                return unlinked_binaries(backends, lease, view, batches)
            return batches


def linking_view(view: ExportView) -> ExportView:
    """Return the view of every patient's resources: any of them may link to a Binary."""
    request = replace(view.request, level=Level.PATIENT, since=None, until=None)
    return replace(view, request=request, cohort=None, newcomers=None, filters={})
