"""
Referenced context: what an export of patients refers to, but that is no patient's.

A Practitioner or an Organization is in no patient's compartment, and yet without it the data say
little. The first phase notes what the output refers to, the second one adds it: each once, as it
was at the transaction time, however old, and nothing that those refer to in turn.
"""

from collections.abc import AsyncGenerator

from helios_core.export.membership import AT_ONCE, ExportMembership
from helios_core.export.pipeline.reference_notes import read_notes
from helios_core.model.exports import ExportView
from helios_core.model.jobs import Lease
from helios_core.storage.backends import Backends
from helios_core.storage.data_provider import Batch
from helios_core.storage.keys import TypeKey

LINES_AT_ONCE = 50
"""How many resources are fetched in one go."""


async def read_referenced(
    backends: Backends, lease: Lease, view: ExportView
) -> AsyncGenerator[Batch]:
    """Give the resources of a shard's type that the output refers to and does not have yet."""
    key = TypeKey.of(view.request, lease.shard.resource_type)
    membership = ExportMembership(backends.data_provider, view)
    async with read_notes(backends, lease, key.resource_type) as notes:
        last = ""
        while ids := await notes.ids(last, AT_ONCE):
            last = ids[-1]
            missing = await _missing(membership, key.resource_type, ids)
            for start in range(0, len(missing), LINES_AT_ONCE):
                yield await backends.data_provider.fetch(
                    key, missing[start : start + LINES_AT_ONCE], at=view.transaction_time
                )


async def _missing(membership: ExportMembership, resource_type: str, ids: list[str]) -> list[str]:
    """Leave out what the view's own shards give, and what is another patient's."""
    named = {(resource_type, each) for each in ids}
    own = await membership.exported(named)
    private = await membership.private(named)
    foreign = private - await membership.belonging(private)
    return [each for each in ids if (resource_type, each) not in own | foreign]
