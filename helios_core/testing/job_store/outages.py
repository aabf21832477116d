"""Clause J19: shards that wait for a backend."""

from datetime import timedelta

import pytest

from helios_core import JobQuery, JobStatus, JobStore, Lease, LeaseLost
from helios_core.testing import corpus
from helios_core.testing.job_store.contract import (
    HOUR,
    MINUTE,
    JobStoreContract,
    add,
    claim,
    fail,
    nothing_to_claim,
)

REASON = "the bucket cannot be reached"


async def postpone(
    store: JobStore,
    lease: Lease,
    reason: str = REASON,
    *,
    retry_after: timedelta = timedelta(0),
    patience: timedelta = HOUR,
) -> bool:
    """Postpone a shard because a backend is unavailable."""
    return await store.postpone(lease, reason, retry_after=retry_after, patience=patience)


class OutageClauses(JobStoreContract):
    """Attempts that do not count, and for how long."""

    async def test_a_postponed_shard_waits_and_the_attempt_does_not_count(
        self, store: JobStore
    ) -> None:
        """J7, J19: any number of times, by the store's clock."""
        await add(store)

        for number in range(5):
            lease = await claim(store, max_attempts=1)
            assert (lease.attempt, lease.postponed) == (1, number)
            assert await postpone(store, lease, retry_after=5 * MINUTE)
            assert await nothing_to_claim(store)
            await self.let_pass(store, 6 * MINUTE)

        assert (await claim(store, max_attempts=1)).attempt == 1

    async def test_a_shard_is_postponed_until_it_waited_too_long(self, store: JobStore) -> None:
        """J19: counted from the first call; then the lease stays held, and it may fail."""
        await add(store)
        assert await postpone(store, await claim(store))
        await self.let_pass(store, 40 * MINUTE)
        assert await postpone(store, await claim(store))
        await self.let_pass(store, 40 * MINUTE)
        lease = await claim(store)

        assert not await postpone(store, lease)

        assert await store.is_held(lease)
        assert await fail(store, lease, max_attempts=1) is JobStatus.ERROR

    async def test_without_patience_a_failure_counts_at_once(self, store: JobStore) -> None:
        """J19: and a shard that fails without progress does not wait again."""
        await add(store)
        lease = await claim(store)
        for _ in range(20):  # however little time passes within a call
            assert not await postpone(store, lease, patience=timedelta(0))
        assert await postpone(store, lease)
        await self.let_pass(store, 2 * HOUR)
        lease = await claim(store)
        assert not await postpone(store, lease)
        await fail(store, lease)

        assert not await postpone(store, await claim(store))

    async def test_a_shard_that_gets_further_may_wait_again(self, store: JobStore) -> None:
        """J19: if it has done more than in any attempt before."""
        await add(store)
        lease = await claim(store)
        await store.renew(lease, lease_for=HOUR, resources_done=3)
        assert await postpone(store, lease)
        await self.let_pass(store, 2 * HOUR)
        lease = await claim(store)

        await store.renew(lease, lease_for=HOUR, resources_done=3)
        assert not await postpone(store, lease)
        assert (await store.progress(corpus.TENANT, "job")).waiting_for == REASON
        await store.renew(lease, lease_for=HOUR, resources_done=4)

        assert (await store.progress(corpus.TENANT, "job")).waiting_for is None
        assert await postpone(store, lease)
        assert (await claim(store)).postponed == 1

    async def test_a_clock_that_is_set_back_makes_no_shard_wait_for_ever(
        self, store: JobStore
    ) -> None:
        """J7, J19: it waits at most twice as long, and is free after its pause."""
        await add(store)
        assert await postpone(store, await claim(store), retry_after=MINUTE)
        await self.let_pass(store, -24 * HOUR)
        assert await postpone(store, await claim(store))
        await self.let_pass(store, 2 * HOUR)

        assert not await postpone(store, await claim(store))

    async def test_what_a_shard_waits_for_is_shown_until_it_is_there(
        self, store: JobStore
    ) -> None:
        """J19: in the progress, the list and the workforce, even during the next attempt."""
        await add(store, shards=2)
        await add(store, "other", tenant=corpus.OTHER_TENANT)

        async def shown() -> set[str | None]:
            jobs = await store.jobs(JobQuery(tenant=corpus.TENANT), limit=9)
            workforce = await store.workforce()
            assert workforce.stalled == (workforce.stalled_for is not None)
            progress = await store.progress(corpus.TENANT, "job")
            return {
                progress.waiting_for,
                jobs[0].progress.waiting_for,
                workforce.stalled_for,
            }

        lease = await claim(store)
        assert await shown() == {None}
        await postpone(store, lease, retry_after=MINUTE)
        assert await shown() == {REASON}
        others = [await claim(store, lease_for=HOUR) for _ in range(2)]
        await self.let_pass(store, 2 * MINUTE)
        lease = await claim(store, lease_for=HOUR)
        assert await shown() == {REASON}
        await store.complete(lease, [])
        assert await shown() == {None}
        other = next(each for each in others if each.job.id == "job")
        await postpone(store, other)
        await fail(store, await claim(store), max_attempts=1)
        assert await shown() == {None}

    async def test_a_lease_that_was_lost_postpones_nothing(self, store: JobStore) -> None:
        """J4, J6, J19: only the current holder can postpone."""
        await add(store)
        old = await claim(store)
        await self.let_pass(store, 2 * MINUTE)
        new = await claim(store, lease_for=HOUR)

        with pytest.raises(LeaseLost):
            await postpone(store, old)
        await postpone(store, new)
        with pytest.raises(LeaseLost):
            await postpone(store, new)
        await store.cancel(corpus.TENANT, "job")
        with pytest.raises(LeaseLost):
            await postpone(store, new)

        assert (await self.raw_statuses(store)) == {"job": "cancelled"}

    async def test_a_postponed_shard_touches_its_job(self, store: JobStore) -> None:
        """J18, J19: waiting for a backend is not waiting for a worker."""
        await add(store)
        await self.let_pass(store, 2 * HOUR)
        await postpone(store, await claim(store))

        assert await store.end_untouched(HOUR, reason="nobody came", limit=9) == []
