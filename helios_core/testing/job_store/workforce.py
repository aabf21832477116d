"""Clauses J17 and J18: live workers, and jobs that nobody works on."""

import pytest

from helios_core import JobKey, JobStatus, JobStore, LeaseLost, Workforce
from helios_core.testing import corpus
from helios_core.testing.job_store.contract import (
    HOUR,
    MINUTE,
    JobStoreContract,
    add,
    claim,
    fail,
    finish,
    nothing_to_claim,
)

REASON = "no worker came"
NOBODY = Workforce(alive=0, waiting=0)


class WorkforceClauses(JobStoreContract):
    """Heartbeats, and jobs that are given up."""

    async def test_a_worker_is_alive_until_its_time_is_over(self, store: JobStore) -> None:
        """J7, J17: by the store's clock, counted from the last report."""
        assert await store.workforce() == NOBODY
        await store.beat("one", lasts=10 * MINUTE)
        await store.beat("two", lasts=HOUR)
        await store.beat("two", lasts=HOUR)
        assert (await store.workforce()).alive == 2

        await self.let_pass(store, 5 * MINUTE)
        await store.beat("one", lasts=10 * MINUTE)
        await self.let_pass(store, 7 * MINUTE)
        assert (await store.workforce()).alive == 2
        await self.let_pass(store, 7 * MINUTE)

        assert (await store.workforce()).alive == 1
        await self.let_pass(store, HOUR)
        assert (await store.workforce()).alive == 0
        await store.beat("one", lasts=MINUTE)
        assert (await store.workforce()).alive == 1

    async def test_a_worker_that_retires_is_alive_no_longer(self, store: JobStore) -> None:
        """J17: at once, and no other worker with it."""
        await store.beat("one", lasts=HOUR)
        await store.beat("two", lasts=HOUR)

        await store.retire("one")
        await store.retire("nobody")

        assert (await store.workforce()).alive == 1

    async def test_a_clock_set_back_keeps_no_worker_alive(self, store: JobStore) -> None:
        """J7, J17: a worker that seems to have more time left than it named does not count."""
        await store.beat("one", lasts=MINUTE)

        await self.let_pass(store, -HOUR)

        assert (await store.workforce()).alive == 0

    async def test_jobs_wait_until_a_worker_holds_a_shard(self, store: JobStore) -> None:
        """J17: active ones of every tenant, and again when the lease is over."""
        await finish(store, "complete")
        await add(store, "one")
        await add(store, "two", tenant=corpus.OTHER_TENANT, shards=2)
        assert (await store.workforce()).waiting == 2

        leases = [await claim(store, lease_for=10 * MINUTE) for _ in range(2)]
        assert await store.workforce() == NOBODY
        await store.release(leases[0])
        assert (await store.workforce()).waiting == 1
        await self.let_pass(store, HOUR)

        assert (await store.workforce()).waiting == 2

    async def test_jobs_that_nobody_touched_end_in_error(self, store: JobStore) -> None:
        """J18: with the reason, and their slots are free."""
        await add(store, "old", shards=2)
        await add(store, "old", tenant=corpus.OTHER_TENANT)
        await self.let_pass(store, 2 * HOUR)
        await add(store, "new")

        first = await store.end_untouched(HOUR, reason=REASON, limit=1)
        second = await store.end_untouched(HOUR, reason=REASON, limit=9)

        tenants = (corpus.TENANT, corpus.OTHER_TENANT)
        assert len(first) == 1
        assert {*first, *second} == {JobKey(tenant=tenant, id="old") for tenant in tenants}
        for tenant in tenants:
            ended = await store.get(tenant, "old")
            assert (ended.status, ended.failure) == (JobStatus.ERROR, REASON)
            assert ended.completed_at is not None
        await add(store, "next", max_active=2)
        assert {(await claim(store)).job.id for _ in range(2)} == {"new", "next"}
        assert await nothing_to_claim(store)

    async def test_whatever_a_worker_does_touches_a_job(self, store: JobStore) -> None:
        """J18: a claim, a renewal, a failure, a release and the completion of a shard."""
        for step in ("claim", "renew", "fail", "release", "complete"):
            await add(store, step, shards=2)
            await self.let_pass(store, 2 * HOUR)
            lease = await claim(store, lease_for=10 * HOUR)
            if step != "claim":
                await self.let_pass(store, 2 * HOUR)
            match step:
                case "renew":
                    await store.renew(lease, lease_for=10 * HOUR, resources_done=0)
                case "fail":
                    await fail(store, lease)
                case "release":
                    await store.release(lease)
                case "complete":
                    await store.complete(lease, [])

            assert await store.end_untouched(HOUR, reason=REASON, limit=9) == []
            await self.let_pass(store, 2 * HOUR)
            ended = await store.end_untouched(HOUR, reason=REASON, limit=9)
            assert ended == [JobKey(tenant=corpus.TENANT, id=step)]

    async def test_a_job_that_was_given_up_takes_every_lease_away(self, store: JobStore) -> None:
        """J4, J18: a worker that comes back too late publishes nothing."""
        await add(store)
        lease = await claim(store, lease_for=10 * HOUR)
        await self.let_pass(store, 2 * HOUR)

        await store.end_untouched(HOUR, reason=REASON, limit=9)

        assert not await store.is_held(lease)
        with pytest.raises(LeaseLost):
            await store.complete(lease, [corpus.part(lease)])
        assert await self.raw_statuses(store) == {"job": "error"}

    async def test_jobs_that_ended_are_not_given_up(self, store: JobStore) -> None:
        """J18: they keep their status, however old they are."""
        await finish(store, "complete")
        await add(store, "failed")
        await fail(store, await claim(store), max_attempts=1)
        await add(store, "cancelled")
        await store.cancel(corpus.TENANT, "cancelled")
        before = await self.raw_statuses(store)
        await self.let_pass(store, 2 * HOUR)

        assert await store.end_untouched(HOUR, reason=REASON, limit=9) == []

        assert await self.raw_statuses(store) == before

    async def test_an_unreadable_job_that_nobody_touches_ends(self, store: JobStore) -> None:
        """J15, J18: no process that can read it has claimed it; its slot is freed."""
        await add(store, "spoilt")
        await self.spoil(store, "spoilt")
        await self.let_pass(store, 2 * HOUR)
        assert await nothing_to_claim(store)

        ended = await store.end_untouched(HOUR, reason=REASON, limit=9)

        assert ended == [JobKey(tenant=corpus.TENANT, id="spoilt")]
        assert await self.raw_statuses(store) == {"spoilt": "error"}
