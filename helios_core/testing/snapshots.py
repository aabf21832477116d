"""Snapshots: all that a provider shows of a view, planned, read and collected."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from helios_core import Batch, Damaged, DataProvider, ExportView, Shard, SupportsTombstones

SHARD_BYTES = 1024 * 1024
BATCH_BYTES = 64 * 1024


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    version_id: str
    last_updated: str


class _Head(msgspec.Struct, frozen=True, rename="camel"):
    resource_type: str
    id: str
    meta: _Meta


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one export of a view returned, in its order."""

    lines: Sequence[bytes]
    damaged: Sequence[Damaged] = ()
    deleted: Sequence[str] = ()
    """The deletions as `Type/id`, sorted."""

    @property
    def names(self) -> list[str]:
        """The `Type/id` of every line, sorted, repeats included."""
        return sorted(f"{head.resource_type}/{head.id}" for head in map(_head, self.lines))

    @property
    def versions(self) -> dict[str, int]:
        """The version of every resource that is shown, by `Type/id`."""
        heads = map(_head, self.lines)
        return {f"{head.resource_type}/{head.id}": int(head.meta.version_id) for head in heads}

    @property
    def repeats(self) -> list[str]:
        """The names that are shown more than once."""
        return [name for name, times in Counter(self.names).items() if times > 1]


async def take_snapshot(
    provider: DataProvider,
    view: ExportView,
    *,
    shard_bytes: int = SHARD_BYTES,
    batch_bytes: int = BATCH_BYTES,
) -> Snapshot:
    """Plan a view and read all of it, with the deletions if the provider remembers them."""
    lines: list[bytes] = []
    damaged: list[Damaged] = []
    deleted: list[str] = []
    for shard in await provider.plan(view, shard_bytes=shard_bytes):
        for batch in await read_batches(provider, view, shard, batch_bytes=batch_bytes):
            lines += batch.lines
            damaged += batch.damaged
        if isinstance(provider, SupportsTombstones):
            deleted += await deleted_in(provider, view, shard)
    return Snapshot(lines=lines, damaged=damaged, deleted=sorted(deleted))


async def read_batches(
    provider: DataProvider, view: ExportView, shard: Shard, *, batch_bytes: int = BATCH_BYTES
) -> list[Batch]:
    """Return all batches of one shard."""
    return [batch async for batch in provider.read(view, shard, batch_bytes=batch_bytes)]


async def deleted_in(
    provider: SupportsTombstones, view: ExportView, shard: Shard, *, batch_rows: int = 100
) -> list[str]:
    """Return the deletions of one shard as `Type/id`."""
    deleted: list[str] = []
    async for ids in provider.read_deleted(view, shard, batch_rows=batch_rows):
        deleted += [f"{shard.resource_type}/{resource_id}" for resource_id in ids]
    return deleted


def _head(line: bytes) -> _Head:
    return msgspec.json.decode(line, type=_Head)
