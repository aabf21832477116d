"""
Referenced resources: those outside of compartments to which the output of an export refers.

A Practitioner or an Organization is in no patient's compartment, but without it the exported data
is hard to use. The shards of the first phase note the references in their output. Those of the
second phase export the referenced resources: each once, as of the transaction time, whatever its
date. References in these resources are not followed.
"""

from collections.abc import AsyncGenerator

from helios_core.export.contents import IDS_PER_QUERY, ExportContents, chunked
from helios_core.export.pipeline.reference_notes import read_notes
from helios_core.model.exports import ExportView
from helios_core.model.jobs import Lease
from helios_core.storage.backends import Backends
from helios_core.storage.data_provider import Batch
from helios_core.storage.resource_keys import TypeKey

RESOURCES_PER_FETCH = 50
"""Maximum number of resources in one batch."""


async def read_referenced(
    backends: Backends, lease: Lease, view: ExportView
) -> AsyncGenerator[Batch]:
    """Yield the resources of a shard's type that the output refers to but does not contain."""
    resource_type = lease.shard.resource_type
    key = TypeKey.of(view.request, resource_type)
    membership = ExportContents(backends.data_provider, view)
    async with read_notes(backends, lease, resource_type) as notes:
        last = ""
        while ids := await notes.page(last, IDS_PER_QUERY):
            last = ids[-1]
            missing = await _not_exported(membership, resource_type, ids)
            for chunk in chunked(missing, RESOURCES_PER_FETCH):
                yield await backends.data_provider.fetch(key, chunk, at=view.transaction_time)


async def _not_exported(
    membership: ExportContents, resource_type: str, ids: list[str]
) -> list[str]:
    """Return the ids without those that other shards export, and those only of other patients."""
    references = {(resource_type, resource_id) for resource_id in ids}
    exported = await membership.exported(references)
    excluded = exported | await membership.of_others(references)
    return [resource_id for resource_id in ids if (resource_type, resource_id) not in excluded]
