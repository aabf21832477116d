"""What a subclass of the job store suite implements, and helpers of its tests."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Literal

import msgspec
import pytest

from helios_core import Job, JobStatus, JobStore, Lease, Shard, SupportsRecords
from helios_core.testing import corpus
from helios_core.testing.suites import ContractSuite

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
PLENTY = 1000
"""A cap, or a number of attempts, that no test reaches by accident."""


class JobStoreContract(ContractSuite):
    """
    What a subclass implements so that the suite can test its job store.

    These are `opened` and, with a driver of their own in place of the store, the `raw_` methods,
    `let_pass`, `spoil` and `lose`, so that a store that is wrong in both directions cannot agree
    with itself.
    """

    known_powers = frozenset({SupportsRecords})
    persistent: ClassVar[bool] = True
    """Whether stores opened on one folder, at once or one after another, share their jobs."""

    def opened(self, folder: Path) -> AbstractAsyncContextManager[JobStore]:
        """Open the store whose data is in, or named after, the folder; new if that is empty."""
        raise NotImplementedError

    async def let_pass(self, store: JobStore, time: timedelta) -> None:
        """Set the store's clock forward by a time, which may be negative; change nothing else."""
        raise NotImplementedError

    async def spoil(
        self, store: JobStore, job_id: str, what: Literal["job", "token"] = "job"
    ) -> None:
        """
        Make the stored form of a job unreadable, as damage or a newer version would.

        `token` sets the fencing token of each of its shards to `MAX_TOKEN` instead.
        """
        raise NotImplementedError

    async def lose(
        self, store: JobStore, job_id: str, what: Literal["shard", "part", "notes"], shard: int
    ) -> None:
        """Remove a shard, the last part that it published, or its notes from the stored data."""
        raise NotImplementedError

    async def raw_statuses(self, store: JobStore) -> Mapping[str, str]:
        """Return the status of every stored job by its id, cancelled ones included."""
        raise NotImplementedError

    async def raw_parts(self, store: JobStore, job_id: str) -> Sequence[str]:
        """Return the public names of the parts stored for a job, in any order."""
        raise NotImplementedError

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[JobStore]:
        """Open an empty store."""
        async with self.opened(tmp_path) as store:
            yield store

    @pytest.fixture
    def subject(self, store: JobStore) -> JobStore:
        """Return the implementation that the tests shared by all suites test."""
        return store

    def needs_persistence(self) -> None:
        """Skip a test about jobs that outlive an opened store."""
        if not self.persistent:
            pytest.skip(f"{type(self).__name__} does not claim to be persistent")


async def add(  # noqa: PLR0913 - most of them by keyword
    store: JobStore,
    job_id: str = "job",
    *,
    tenant: str = corpus.TENANT,
    owner: str | None = "somebody",
    shards: int | Sequence[Shard] = 1,
    max_active: int = PLENTY,
) -> Job:
    """Add a job with a number of shards."""
    planned = corpus.shards(shards) if isinstance(shards, int) else shards
    job = msgspec.structs.replace(corpus.job(job_id, tenant=tenant), owner=owner)
    return await store.add(job, planned, max_active=max_active)


async def claim(
    store: JobStore,
    worker: str = "worker",
    *,
    lease_for: timedelta = MINUTE,
    max_attempts: int = PLENTY,
) -> Lease:
    """Claim a shard; there must be one."""
    lease = await store.claim(worker, lease_for=lease_for, max_attempts=max_attempts)
    assert lease is not None, "there is a free shard, but `claim` returned None"
    return lease


async def nothing_to_claim(store: JobStore, *, max_attempts: int = PLENTY) -> bool:
    """Return whether there is nothing to claim."""
    lease = await store.claim("another", lease_for=MINUTE, max_attempts=max_attempts)
    return lease is None


async def fail(
    store: JobStore,
    lease: Lease,
    reason: str = "the disk is full",
    *,
    max_attempts: int = PLENTY,
    retry_after: timedelta = timedelta(0),
) -> JobStatus:
    """Report a failed attempt."""
    return await store.fail(lease, reason, max_attempts=max_attempts, retry_after=retry_after)


async def finish(store: JobStore, job_id: str = "job", *, tenant: str = corpus.TENANT) -> None:
    """Add a job and complete its only shard."""
    await add(store, job_id, tenant=tenant)
    lease = await claim(store)
    await store.complete(lease, [corpus.part(lease)])
