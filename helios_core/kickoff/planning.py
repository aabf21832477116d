"""Divide an export into shards, whatever they are for."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from helios_core.cohorts import older_view
from helios_core.data_providers import DataProvider
from helios_core.exports import ExportView, Purpose, Shard
from helios_core.kickoff.companions import with_companions
from helios_core.pipeline.organizing import organized_shards


async def plan(provider: DataProvider, view: ExportView, *, shard_bytes: int) -> list[Shard]:
    """Give the shards of a whole export; none if there is nothing to export."""
    shards = await provider.plan(view, shard_bytes=shard_bytes)
    if (older := older_view(view)) is not None:
        brought = await provider.plan(older, shard_bytes=shard_bytes)
        shards += [msgspec.structs.replace(shard, purpose=Purpose.OLDER) for shard in brought]
    if view.request.organize_by is not None:
        blocks = await organized_shards(provider, view, shards, shard_bytes=shard_bytes)
        return numbered(blocks)
    shards = await with_companions(provider, view, shards, shard_bytes=shard_bytes)
    return largest_first(numbered(shards))


def numbered(shards: Iterable[Shard]) -> list[Shard]:
    """Number shards of several plans through, and the ordinals within each type."""
    ordinals = Counter[str]()
    result = list[Shard]()
    for number, shard in enumerate(shards):
        ordinals[shard.resource_type] += 1
        ordinal = ordinals[shard.resource_type]
        result.append(msgspec.structs.replace(shard, number=number, ordinal=ordinal))
    return result


def largest_first(shards: Iterable[Shard]) -> list[Shard]:
    """Number shards anew, so that in no phase a large one is begun last and waited for."""
    by_size = sorted(shards, key=lambda shard: (shard.phase, -shard.bytes))
    return [msgspec.structs.replace(shard, number=number) for number, shard in enumerate(by_size)]
