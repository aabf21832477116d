"""Backends that fail or are slow on demand, and wrap other backends."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta

from helios_core import (
    BackendUnavailable,
    Batch,
    DataProvider,
    ExportView,
    OutputStore,
    PartKey,
    ResourceKey,
    Shard,
    StoredPart,
    StoredVersion,
    SupportsTombstones,
)


class Fault:
    """A failure that happens after an amount of work, a limited number of times."""

    def __init__(
        self,
        *,
        after: int | None,
        times: int = 1,
        error: Exception | None = None,
        delay: timedelta = timedelta(0),
    ) -> None:
        self._after = after
        self._error = error or BackendUnavailable("a failure for a test")
        self._delay_seconds = delay.total_seconds()
        self.remaining = times
        """How many more times it will happen."""

    async def strike(self, done: int) -> None:
        """Wait for the delay, then fail if `done` exceeds the work that succeeds."""
        await asyncio.sleep(self._delay_seconds)
        if self._after is not None and done > self._after and self.remaining > 0:
            self.remaining -= 1
            raise self._error


class FaultyOutputStore(OutputStore):
    """
    Stores parts in another store, and interrupts some of them.

    The first `times` parts that are larger than `fail_after_bytes` fail after so many bytes with
    `error` (by default BackendUnavailable). Every chunk takes `delay` longer.
    """

    def __init__(
        self,
        store: OutputStore,
        *,
        fail_after_bytes: int | None = None,
        times: int = 1,
        error: Exception | None = None,
        delay: timedelta = timedelta(0),
    ) -> None:
        self._store = store
        self.fault = Fault(after=fail_after_bytes, times=times, error=error, delay=delay)

    async def bind(self, owner: str) -> None:
        """Call the other store."""
        await self._store.bind(owner)

    async def put(self, key: PartKey, chunks: AsyncIterator[bytes]) -> StoredPart:
        """Store a part, whose chunks may fail."""
        return await self._store.put(key, self._interrupted(chunks))

    def read(
        self, key: PartKey, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Call the other store."""
        return self._store.read(key, start=start, end=end)

    async def discard(self, key: PartKey) -> None:
        """Call the other store."""
        await self._store.discard(key)

    async def delete(self, tenant: str, job_id: str) -> None:
        """Call the other store."""
        await self._store.delete(tenant, job_id)

    def jobs(self) -> AsyncIterator[tuple[str, str]]:
        """Call the other store."""
        return self._store.jobs()

    async def _interrupted(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        passed = 0
        async for chunk in chunks:
            passed += len(chunk)
            await self.fault.strike(passed)
            yield chunk


class FaultyDataProvider(DataProvider):
    """
    Reads from another provider, and interrupts some of the reads.

    The first `times` shards with more than `fail_after_batches` batches fail after so many with
    `error` (by default BackendUnavailable). Every batch takes `delay` longer. Of the other
    provider's powers it has only SupportsTombstones, which exports use; tests write to the other
    provider.
    """

    def __init__(
        self,
        provider: DataProvider,
        *,
        fail_after_batches: int | None = None,
        times: int = 1,
        error: Exception | None = None,
        delay: timedelta = timedelta(0),
    ) -> None:
        self._provider = provider
        self.fault = Fault(after=fail_after_batches, times=times, error=error, delay=delay)

    async def transaction_time(self) -> datetime:
        """Call the other provider."""
        return await self._provider.transaction_time()

    async def plan(self, view: ExportView, *, shard_bytes: int) -> list[Shard]:
        """Call the other provider."""
        return await self._provider.plan(view, shard_bytes=shard_bytes)

    async def read(
        self, view: ExportView, shard: Shard, *, batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Read a shard until the fault happens."""
        count = 0
        async for batch in self._provider.read(view, shard, batch_bytes=batch_bytes):
            count += 1
            await self.fault.strike(count)
            yield batch

    async def read_deleted(
        self, view: ExportView, shard: Shard, *, batch_rows: int
    ) -> AsyncIterator[Sequence[str]]:
        """Call the other provider; yield nothing if it does not remember deletions."""
        if isinstance(self._provider, SupportsTombstones):
            async for ids in self._provider.read_deleted(view, shard, batch_rows=batch_rows):
                yield ids

    async def get(self, key: ResourceKey, *, at: datetime | None = None) -> StoredVersion | None:
        """Call the other provider."""
        return await self._provider.get(key, at=at)
