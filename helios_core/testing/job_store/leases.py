"""Clauses J2 to J4, J7 to J9, J11 and J14: who may work on which shard, and how often."""

import asyncio
from datetime import timedelta

import pytest

from helios_core import JobStatus, JobStore, Lease, LeaseLost
from helios_core.testing import corpus
from helios_core.testing.job_store.contract import (
    HOUR,
    MINUTE,
    PLENTY,
    JobStoreContract,
    add,
    claim,
    fail,
    nothing_to_claim,
)


class LeaseClauses(JobStoreContract):
    """Claiming, holding and losing shards."""

    async def test_a_claim_gives_the_job_and_the_shard_as_they_were_added(
        self, store: JobStore
    ) -> None:
        """J2: a worker needs nothing but its lease."""
        await add(store, shards=2)

        leases = [await claim(store, "one"), await claim(store, "two")]

        assert [lease.shard for lease in leases] == corpus.shards(2)
        assert {lease.job.request for lease in leases} == {corpus.job("job").request}
        assert [lease.worker for lease in leases] == ["one", "two"]
        assert [lease.attempt for lease in leases] == [1, 1]

    async def test_a_claimed_job_is_in_progress(self, store: JobStore) -> None:
        """J2: a poll sees that a worker has begun."""
        await add(store, shards=2)

        lease = await claim(store)

        assert lease.job.status is JobStatus.IN_PROGRESS
        assert (await store.get(corpus.TENANT, "job")).status is JobStatus.IN_PROGRESS
        assert await self.raw_statuses(store) == {"job": "in-progress"}

    async def test_a_held_shard_is_not_given_out(self, store: JobStore) -> None:
        """J2: one holder at a time."""
        await add(store)

        await claim(store)

        assert await nothing_to_claim(store)

    async def test_concurrent_claims_give_each_shard_once(self, store: JobStore) -> None:
        """J2: also when twenty workers claim at once."""
        await add(store, shards=12)

        async with asyncio.TaskGroup() as group:
            claims = [
                group.create_task(store.claim(f"w{n}", lease_for=MINUTE, max_attempts=PLENTY))
                for n in range(20)
            ]

        leases = [lease for task in claims if (lease := task.result()) is not None]
        assert sorted(lease.shard.number for lease in leases) == list(range(12))

    async def test_a_shard_waits_for_the_earlier_phases_of_its_job(self, store: JobStore) -> None:
        """J11: until each of their shards is complete, whatever its number."""
        await add(store, shards=corpus.shards(4, phases=(2, 0, 1, 0)))

        claimed = [[await claim(store), await claim(store)]]
        assert await nothing_to_claim(store)
        await store.complete(claimed[0][0], [])
        assert await nothing_to_claim(store)
        await store.complete(claimed[0][1], [])
        claimed.append([await claim(store)])
        assert await nothing_to_claim(store)
        await store.complete(claimed[1][0], [])
        claimed.append([await claim(store)])

        numbers = [[lease.shard.number for lease in leases] for leases in claimed]
        assert numbers == [[1, 3], [2], [0]]

    async def test_a_phase_waits_for_shards_that_have_to_be_tried_again(
        self, store: JobStore
    ) -> None:
        """J11: a shard that failed, was handed back or lapsed is not complete."""
        await add(store, shards=corpus.shards(4, phases=(0, 0, 0, 1)))
        leases = [await claim(store) for _ in range(3)]
        await fail(store, leases[0], retry_after=HOUR)
        await store.release(leases[1])
        await self.let_pass(store, 2 * MINUTE)

        again = [await claim(store), await claim(store)]

        assert [lease.shard.number for lease in again] == [1, 2]
        assert await nothing_to_claim(store)

    async def test_a_waiting_phase_keeps_no_other_job_waiting(self, store: JobStore) -> None:
        """J11: phases order the shards of one job only."""
        await add(store, "first", shards=corpus.shards(2, phases=(0, 1)))
        await add(store, "second", shards=corpus.shards(1, phases=(1,)))
        await claim(store)

        assert (await claim(store)).job.id == "second"

    async def test_a_lapsed_lease_is_given_out_again(self, store: JobStore) -> None:
        """J2, J7: it lapses by the store's clock."""
        await add(store)
        first = await claim(store, lease_for=MINUTE)

        await self.let_pass(store, 2 * MINUTE)
        second = await claim(store, "another")

        assert second.shard == first.shard
        assert second.attempt == 2

    async def test_only_the_leases_whose_time_is_over_lapse(self, store: JobStore) -> None:
        """J7: each lease is as long as was requested."""
        await add(store, shards=2)
        await claim(store, lease_for=HOUR)
        short = await claim(store, lease_for=MINUTE)

        await self.let_pass(store, 2 * MINUTE)

        assert (await claim(store)).shard == short.shard
        assert await nothing_to_claim(store)

    @pytest.mark.parametrize("wait", ["lease", "renewal", "retry"])
    async def test_a_clock_that_is_set_back_strands_no_shard(
        self, store: JobStore, wait: str
    ) -> None:
        """J7: a shard whose worker died is free again within two lengths of its lease."""
        await add(store)
        lease = await claim(store, lease_for=MINUTE)
        if wait == "renewal":
            await store.renew(lease, lease_for=MINUTE, resources_done=1)
        elif wait == "retry":
            await fail(store, lease, retry_after=MINUTE)

        await self.let_pass(store, -HOUR)
        await self.let_pass(store, 2 * MINUTE)

        assert (await claim(store)).shard == lease.shard

    async def test_a_clock_that_is_set_back_a_little_takes_nothing_away(
        self, store: JobStore
    ) -> None:
        """J7: clocks are corrected all the time."""
        await add(store)
        lease = await claim(store, lease_for=HOUR)

        await self.let_pass(store, -MINUTE)

        assert await nothing_to_claim(store)
        await store.renew(lease, lease_for=HOUR, resources_done=1)

    async def test_a_lease_is_held_until_it_is_lost(self, store: JobStore) -> None:
        """J14: as `renew` would find; a lapsed lease is held until its shard is claimed."""
        await add(store, shards=3)
        done, released, failed = [await claim(store) for _ in range(3)]
        assert [await store.is_held(each) for each in (done, released, failed)] == [True] * 3

        await store.complete(done, [])
        await store.release(released)
        await fail(store, failed)
        assert [await store.is_held(each) for each in (done, released, failed)] == [False] * 3

        first = await claim(store, lease_for=MINUTE)
        await self.let_pass(store, 2 * MINUTE)
        assert await store.is_held(first)
        second = await claim(store)
        while second.shard != first.shard:
            second = await claim(store)
        assert await store.is_held(second)
        assert not await store.is_held(first)

    @pytest.mark.parametrize("end", ["cancel", "delete", "error"])
    async def test_no_lease_of_an_ended_job_is_held(self, store: JobStore, end: str) -> None:
        """J6, J9, J14: all of its workers can stop."""
        await add(store, shards=2)
        one, two = await claim(store), await claim(store)

        if end == "error":
            await fail(store, one, max_attempts=1)
        else:
            await store.cancel(corpus.TENANT, "job")
        if end == "delete":
            await store.delete(corpus.TENANT, "job")

        assert not await store.is_held(one)
        assert not await store.is_held(two)

    async def test_a_renewed_lease_counts_from_the_renewal(self, store: JobStore) -> None:
        """J7: a heartbeat moves the end of the lease, it does not add up."""
        await add(store)
        lease = await claim(store, lease_for=MINUTE)

        await self.let_pass(store, MINUTE / 2)
        await store.renew(lease, lease_for=MINUTE, resources_done=1)
        await self.let_pass(store, MINUTE * 3 / 4)

        assert await nothing_to_claim(store)
        await self.let_pass(store, MINUTE / 2)
        assert (await claim(store)).shard == lease.shard

    async def test_each_claim_raises_the_token(self, store: JobStore) -> None:
        """J3: whether the shard lapsed, failed or was handed back."""
        await add(store)
        tokens = []

        lease = await claim(store)
        tokens.append(lease.token)
        await self.let_pass(store, 2 * MINUTE)
        lease = await claim(store)
        tokens.append(lease.token)
        await fail(store, lease)
        lease = await claim(store)
        tokens.append(lease.token)
        await store.release(lease)
        tokens.append((await claim(store)).token)

        assert tokens == sorted(set(tokens))

    async def test_a_superseded_lease_cannot_be_renewed(self, store: JobStore) -> None:
        """J4: the old holder notices at its next heartbeat, and does not delay the new one."""
        old = await self._superseded(store)

        with pytest.raises(LeaseLost):
            await store.renew(old, lease_for=HOUR, resources_done=7)

        assert (await store.progress(corpus.TENANT, "job")).resources_done == 0
        await self.let_pass(store, 2 * MINUTE)
        assert (await claim(store)).shard == old.shard

    async def test_a_superseded_lease_cannot_publish(self, store: JobStore) -> None:
        """J4: what the old holder wrote is never listed."""
        old = await self._superseded(store)

        with pytest.raises(LeaseLost):
            await store.complete(old, [corpus.part(old)])

        assert await self.raw_parts(store, "job") == []
        assert await self.raw_statuses(store) == {"job": "in-progress"}
        assert await nothing_to_claim(store)

    async def test_a_superseded_lease_cannot_fail_the_shard(self, store: JobStore) -> None:
        """J4: the new holder keeps working, and the job does not end."""
        old = await self._superseded(store)

        with pytest.raises(LeaseLost):
            await fail(store, old, max_attempts=1)

        assert await self.raw_statuses(store) == {"job": "in-progress"}
        assert await nothing_to_claim(store)

    async def test_a_superseded_lease_cannot_be_released(self, store: JobStore) -> None:
        """J4: the shard stays with its new holder."""
        old = await self._superseded(store)

        with pytest.raises(LeaseLost):
            await store.release(old)

        assert await nothing_to_claim(store)

    async def test_a_new_holder_may_publish_after_the_old_one_was_refused(
        self, store: JobStore
    ) -> None:
        """J4: a refused write changes nothing for the holder either."""
        await add(store)
        old = await claim(store)
        await self.let_pass(store, 2 * MINUTE)
        new = await claim(store)
        with pytest.raises(LeaseLost):
            await store.complete(old, [corpus.part(old)])

        status = await store.complete(new, [corpus.part(new)])

        assert status is JobStatus.COMPLETE
        assert await store.parts(corpus.TENANT, "job") == [corpus.part(new)]

    async def test_a_shard_handed_back_cannot_be_published(self, store: JobStore) -> None:
        """J2, J4: a lease ends when its shard is handed back, even if nobody claims the shard."""
        await add(store, shards=2)
        released, failed = await claim(store), await claim(store)
        await store.release(released)
        await fail(store, failed)

        for lease in (released, failed):
            with pytest.raises(LeaseLost):
                await store.complete(lease, [corpus.part(lease)])

        assert await self.raw_parts(store, "job") == []

    async def test_a_lapsed_lease_nobody_took_may_still_publish(self, store: JobStore) -> None:
        """J4: late is not lost; only a newer lease or the end of the job is."""
        await add(store)
        lease = await claim(store)
        await self.let_pass(store, HOUR)

        status = await store.complete(lease, [corpus.part(lease)])

        assert status is JobStatus.COMPLETE

    async def test_a_released_shard_is_free_and_the_attempt_does_not_count(
        self, store: JobStore
    ) -> None:
        """J9: stopping a server is no failure of the shard."""
        await add(store)

        for _ in range(5):
            lease = await claim(store, max_attempts=1)
            assert lease.attempt == 1
            await store.release(lease)

        assert (await claim(store, max_attempts=1)).attempt == 1

    async def test_a_failed_shard_waits_before_it_is_free_again(self, store: JobStore) -> None:
        """J7, J9: the wait is counted by the store's clock."""
        await add(store)

        status = await fail(store, await claim(store), retry_after=HOUR)

        assert status is JobStatus.IN_PROGRESS
        assert await nothing_to_claim(store)
        await self.let_pass(store, HOUR / 2)
        assert await nothing_to_claim(store)
        await self.let_pass(store, HOUR)
        assert (await claim(store)).attempt == 2

    async def test_a_shard_that_used_up_its_attempts_ends_the_job(self, store: JobStore) -> None:
        """J9: the client gets the reason of the last failure."""
        await add(store, shards=2)
        await fail(store, await claim(store), "the first reason", max_attempts=2)

        status = await fail(store, await claim(store), "the last reason", max_attempts=2)

        job = await store.get(corpus.TENANT, "job")
        assert status is job.status is JobStatus.ERROR
        assert "the last reason" in (job.failure or "")
        assert job.completed_at is not None
        assert await self.raw_statuses(store) == {"job": "error"}

    async def test_a_job_in_error_takes_every_lease_away(self, store: JobStore) -> None:
        """J9: nobody goes on working for it, and it frees its slot."""
        await add(store, shards=3)
        one, two = await claim(store), await claim(store)

        await fail(store, one, max_attempts=1)

        with pytest.raises(LeaseLost):
            await store.complete(two, [corpus.part(two)])
        with pytest.raises(LeaseLost):
            await store.renew(two, lease_for=MINUTE, resources_done=1)
        assert await nothing_to_claim(store)
        await add(store, "next", max_active=1)

    async def test_a_shard_that_keeps_lapsing_ends_the_job(self, store: JobStore) -> None:
        """J9: a shard that kills its workers is given up, with the last error kept."""
        await add(store)
        await fail(store, await claim(store, max_attempts=2), "the last reason", max_attempts=2)
        await claim(store, max_attempts=2)
        await self.let_pass(store, HOUR)

        assert await nothing_to_claim(store, max_attempts=2)

        job = await store.get(corpus.TENANT, "job")
        assert job.status is JobStatus.ERROR
        assert "the last reason" in (job.failure or "")

    async def test_a_shard_nobody_ever_reported_on_ends_the_job_with_words(
        self, store: JobStore
    ) -> None:
        """J9: without a last error the client still gets an explanation."""
        await add(store)
        await claim(store, max_attempts=1)
        await self.let_pass(store, HOUR)

        assert await nothing_to_claim(store, max_attempts=1)

        assert (await store.get(corpus.TENANT, "job")).failure

    async def test_giving_up_a_shard_does_not_end_the_search(self, store: JobStore) -> None:
        """J9: the claim that gives up one job finds the work of the next."""
        await add(store, "lost")
        await claim(store, max_attempts=1)
        await add(store, "next")
        await self.let_pass(store, HOUR)

        lease = await claim(store, max_attempts=1)

        assert lease.job.id == "next"
        assert await self.raw_statuses(store) == {"lost": "error", "next": "in-progress"}

    async def test_attempts_are_counted_for_each_shard_alone(self, store: JobStore) -> None:
        """J9: two shards that fail once have not failed twice."""
        await add(store, shards=2)
        one, two = await claim(store), await claim(store)

        await fail(store, one, max_attempts=2)
        status = await fail(store, two, max_attempts=2)

        assert status is JobStatus.IN_PROGRESS

    async def test_a_busy_tenant_does_not_starve_another(self, store: JobStore) -> None:
        """J8: after a hundred jobs of one tenant, a small job of another is claimed second."""
        for number in range(100):
            await add(store, f"busy-{number}", shards=2)
        await add(store, "small", tenant=corpus.OTHER_TENANT)

        claimed = [(await claim(store)).job.id for _ in range(4)]

        assert claimed == ["busy-0", "small", "busy-0", "busy-1"]

    async def test_tenants_take_turns(self, store: JobStore) -> None:
        """J8: the tenant served longest ago comes first, whoever was there before."""
        for tenant in ("a", "b", "c"):
            await add(store, f"job-{tenant}", tenant=tenant, shards=3)

        claimed = [(await claim(store)).job.tenant for _ in range(9)]

        assert claimed == ["a", "b", "c"] * 3

    async def test_a_tenant_that_waited_comes_before_one_served_since(
        self, store: JobStore
    ) -> None:
        """J8: when a tenant was served is remembered while it has no jobs."""
        await add(store, "first", tenant="a")
        await add(store, "second", tenant="b", shards=3)
        served = [(await claim(store)).job.tenant for _ in range(3)]

        await add(store, "third", tenant="a")

        assert served == ["a", "b", "b"]
        assert (await claim(store)).job.id == "third"

    async def test_within_a_tenant_the_oldest_job_and_lowest_shard_come_first(
        self, store: JobStore
    ) -> None:
        """J8: jobs finish in the order in which they were requested."""
        await add(store, "z-older", shards=list(reversed(corpus.shards(2))))
        await add(store, "a-newer")

        claimed = [await claim(store) for _ in range(3)]

        order = [(lease.job.id, lease.shard.number) for lease in claimed]
        assert order == [("z-older", 0), ("z-older", 1), ("a-newer", 0)]

    async def test_waiting_for_work_ends(self, store: JobStore) -> None:
        """A sleeping worker wakes up in time, whether or not there is work."""
        async with asyncio.timeout(10):
            await store.wait_for_work(timedelta(milliseconds=20))

    async def _superseded(self, store: JobStore) -> Lease:
        """Return a lapsed lease on a shard that another worker holds now."""
        await add(store)
        old = await claim(store, "old")
        await self.let_pass(store, 2 * MINUTE)
        await claim(store, "new")
        return old
