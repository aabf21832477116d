"""Clauses J1, J5, J6, J10 and J12: how jobs begin, end and stay inside their tenant."""

import asyncio
from datetime import timedelta
from itertools import pairwise

import pytest

from helios_core import (
    JobKey,
    JobNotFound,
    JobProgress,
    JobStatus,
    JobStore,
    LeaseLost,
    PartKind,
    PartNotFound,
    TooManyExports,
)
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

AT_ONCE = timedelta(0)


class EndingClauses(JobStoreContract):
    """Adding, completing, cancelling, deleting."""

    async def test_an_added_job_is_accepted_and_can_be_read(self, store: JobStore) -> None:
        """J1: it is returned unchanged, with an instant of the store's clock."""
        added = await add(store, shards=2)

        original = corpus.job("job")
        assert added == await store.get(corpus.TENANT, "job")
        assert added.status is JobStatus.ACCEPTED
        assert added.request == original.request
        assert added.transaction_time == original.transaction_time
        assert added.owner == "somebody"
        assert added.created_at is not None
        assert added.created_at.tzinfo is not None
        assert await self.raw_statuses(store) == {"job": "accepted"}

    async def test_a_job_without_shards_is_complete_at_once(self, store: JobStore) -> None:
        """J1: an empty view is an export too."""
        job = await add(store, shards=0)

        assert job.status is JobStatus.COMPLETE
        assert job.completed_at is not None
        assert await store.parts(corpus.TENANT, "job") == []
        assert await nothing_to_claim(store)
        assert await self.raw_statuses(store) == {"job": "complete"}

    async def test_the_cap_refuses_one_job_too_many(self, store: JobStore) -> None:
        """J1: and nothing of the refused job is stored."""
        await add(store, "one", max_active=2)
        await add(store, "two", max_active=2)

        with pytest.raises(TooManyExports):
            await add(store, "three", max_active=2)

        assert sorted(await self.raw_statuses(store)) == ["one", "two"]
        assert not await store.exists(corpus.TENANT, "three")

    async def test_the_cap_holds_under_concurrent_adds(self, store: JobStore) -> None:
        """J1: it is enforced in the transaction that adds, not before it."""
        adds = (add(store, f"job-{number}", max_active=4) for number in range(20))

        results = await asyncio.gather(*adds, return_exceptions=True)

        refused = [result for result in results if isinstance(result, BaseException)]
        assert {type(error) for error in refused} == {TooManyExports}
        assert len(refused) == 16
        assert len(await self.raw_statuses(store)) == 4

    async def test_the_cap_counts_each_tenant_alone(self, store: JobStore) -> None:
        """J1, J10: one tenant's exports take no slot from another."""
        await add(store, "one", max_active=1)

        await add(store, "two", tenant=corpus.OTHER_TENANT, max_active=1)

        assert len(await self.raw_statuses(store)) == 2

    async def test_a_job_that_ended_frees_its_slot(self, store: JobStore) -> None:
        """J1: complete, error, cancelled and deleted jobs do not count against the cap."""
        await finish(store, "completed")
        await add(store, "failed", max_active=1)
        await fail(store, await claim(store), max_attempts=1)
        await add(store, "cancelled", max_active=1)
        await store.cancel(corpus.TENANT, "cancelled")
        await add(store, "deleted", max_active=1)
        await store.delete(corpus.TENANT, "deleted")

        job = await add(store, "next", max_active=1)

        assert job.status is JobStatus.ACCEPTED

    async def test_completing_a_shard_publishes_its_parts(self, store: JobStore) -> None:
        """J5: exactly these, at once, although the job is not complete."""
        await add(store, shards=2)
        lease = await claim(store)
        parts = [corpus.part(lease), corpus.part(lease, number=2)]

        status = await store.complete(lease, parts)

        assert status is JobStatus.IN_PROGRESS
        published = [corpus.part(lease), corpus.part(lease, number=2, published=1)]
        assert await store.parts(corpus.TENANT, "job") == published
        assert sorted(await self.raw_parts(store, "job")) == [part.key.name for part in parts]

    async def test_the_last_shard_completes_the_job(self, store: JobStore) -> None:
        """J5: in the same transaction, with the time by the store's clock."""
        added = await add(store, shards=2)
        one, two = await claim(store), await claim(store)
        await store.complete(two, [corpus.part(two)])

        status = await store.complete(one, [corpus.part(one)])

        job = await store.get(corpus.TENANT, "job")
        assert status is job.status is JobStatus.COMPLETE
        assert job.completed_at is not None
        assert added.created_at is not None
        assert job.completed_at >= added.created_at
        assert job.failure is None
        assert await self.raw_statuses(store) == {"job": "complete"}

    async def test_the_last_shards_completed_at_once_complete_the_job(
        self, store: JobStore
    ) -> None:
        """J5: of shards that finish together, one is the last."""
        await add(store, shards=8)
        leases = [await claim(store) for _ in range(8)]

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(store.complete(lease, [corpus.part(lease)])) for lease in leases
            ]

        assert [task.result() for task in tasks].count(JobStatus.COMPLETE) == 1
        assert await self.raw_statuses(store) == {"job": "complete"}
        assert len(await self.raw_parts(store, "job")) == 8

    async def test_a_shard_without_parts_can_be_completed(self, store: JobStore) -> None:
        """J5: a range that turned out empty is done like any other."""
        await add(store)

        status = await store.complete(await claim(store), [])

        assert status is JobStatus.COMPLETE
        assert await store.parts(corpus.TENANT, "job") == []

    async def test_a_completed_shard_is_never_given_out_again(self, store: JobStore) -> None:
        """J5: however much time passes."""
        await add(store, shards=2)
        done, other = await claim(store), await claim(store)
        await store.complete(done, [corpus.part(done)])

        await self.let_pass(store, HOUR)

        assert (await claim(store)).shard == other.shard
        assert await nothing_to_claim(store)

    async def test_a_shard_cannot_be_completed_twice(self, store: JobStore) -> None:
        """J4, J5: publishing ends the lease."""
        await add(store, shards=2)
        lease = await claim(store)
        await store.complete(lease, [corpus.part(lease)])

        with pytest.raises(LeaseLost):
            await store.complete(lease, [corpus.part(lease), corpus.part(lease, number=2)])

        assert await self.raw_parts(store, "job") == [corpus.part(lease).key.name]

    async def test_a_publication_refused_leaves_no_part_behind(self, store: JobStore) -> None:
        """J5: all or nothing: there are neither parts nor a completed shard or job."""
        await add(store)
        old = await claim(store)
        await self.let_pass(store, 2 * MINUTE)
        new = await claim(store)
        parts = [corpus.part(old, number=number) for number in range(1, 6)]

        with pytest.raises(LeaseLost):
            await store.complete(old, parts)

        assert await self.raw_parts(store, "job") == []
        await store.renew(new, lease_for=MINUTE, resources_done=1)

    async def test_parts_come_by_kind_then_shard_then_number(self, store: JobStore) -> None:
        """J5: a manifest reads the same however the shards finished."""
        await add(store, shards=2)
        first, second = await claim(store), await claim(store)
        for lease in (second, first):
            parts = [
                corpus.part(lease, kind=kind, number=number)
                for number in (2, 1)
                for kind in reversed(PartKind)
            ]
            await store.complete(lease, parts)

        keys = [part.key for part in await store.parts(corpus.TENANT, "job")]

        kinds = [key.kind for key in keys]
        assert [kinds.count(kind) for kind in PartKind] == [4] * len(PartKind)
        for kind in PartKind:
            start = kinds.index(kind)
            numbers = [(key.ordinal, key.number) for key in keys[start : start + 4]]
            assert set(kinds[start : start + 4]) == {kind}
            assert numbers == [(1, 1), (1, 2), (2, 1), (2, 2)]

    async def test_a_part_is_found_by_its_file_name(self, store: JobStore) -> None:
        """J5, J10: the same as in the list, and only in its own job."""
        await finish(store, "other")
        await add(store, shards=2)
        with pytest.raises(PartNotFound):
            await store.part(corpus.TENANT, "job", "Patient-1-1.ndjson")
        for lease in [await claim(store), await claim(store)]:
            parts = [corpus.part(lease, kind=k, number=n) for k in PartKind for n in (1, 2)]
            await store.complete(lease, parts)

        listed = await store.parts(corpus.TENANT, "job")

        assert len({part.key.name for part in listed}) == 12
        for part in listed:
            assert await store.part(corpus.TENANT, "job", part.key.name) == part
        for name in ("", "nothing.ndjson", listed[0].key.stored_name):
            with pytest.raises(PartNotFound):
                await store.part(corpus.TENANT, "job", name)
        with pytest.raises(JobNotFound):
            await store.part(corpus.OTHER_TENANT, "job", listed[0].key.name)
        await store.cancel(corpus.TENANT, "job")
        with pytest.raises(JobNotFound):
            await store.part(corpus.TENANT, "job", listed[0].key.name)

    async def test_parts_keep_the_place_at_which_they_were_published(
        self, store: JobStore
    ) -> None:
        """J12: published parts keep their numbers, whichever shard publishes more later."""
        await add(store, shards=3)
        leases = [await claim(store) for _ in range(3)]
        shown = list[dict[str, int]]()
        for lease, count in zip(reversed(leases), (2, 1, 3), strict=True):
            parts = [corpus.part(lease, number=number) for number in range(1, count + 1)]
            await store.complete(lease, parts)
            published = await store.parts(corpus.TENANT, "job")
            shown.append({part.key.name: part.published for part in published})

        for earlier, later in pairwise(shown):
            assert earlier.items() <= later.items()
        assert [sorted(numbers.values()) for numbers in shown] == [
            [*range(2)],
            [*range(3)],
            [*range(6)],
        ]

    async def test_the_exports_completed_last_are_reported(self, store: JobStore) -> None:
        """A store that reports them leaves out other tenants' and those that failed."""
        for job_id in ("first", "second"):
            await finish(store, job_id)
            await self.let_pass(store, MINUTE)
        await finish(store, "foreign", tenant="other")
        await add(store, "failed")
        await fail(store, await claim(store), max_attempts=1)

        recent = [job.id for job in await store.recent(corpus.TENANT, limit=9)]

        assert recent in (["second", "first"], [])
        assert len(await store.recent(corpus.TENANT, limit=1)) == len(recent[:1])

    async def test_progress_counts_published_and_reported_resources(self, store: JobStore) -> None:
        """A poll sees what is published and what holders report as done."""
        await add(store, shards=3)
        done, held = await claim(store), await claim(store)
        await store.complete(done, [corpus.part(done, count=10)])
        await store.renew(held, lease_for=MINUTE, resources_done=4)

        progress = await store.progress(corpus.TENANT, "job")

        assert progress == JobProgress(
            resources_done=14, resources_total=30, shards_done=1, shards_total=3
        )

    async def test_progress_forgets_what_a_lost_attempt_reported(self, store: JobStore) -> None:
        """A shard that starts again starts from nothing."""
        await add(store, shards=3)
        released, failed, lapsed = [await claim(store) for _ in range(3)]
        for lease in (released, failed, lapsed):
            await store.renew(lease, lease_for=MINUTE, resources_done=4)

        await store.release(released)
        await fail(store, failed)
        await self.let_pass(store, HOUR)
        for _ in range(3):
            await claim(store)

        assert (await store.progress(corpus.TENANT, "job")).resources_done == 0

    async def test_a_cancelled_job_is_gone_but_not_forgotten(self, store: JobStore) -> None:
        """J6: clients do not find it, but the sweep does."""
        await add(store)

        await store.cancel(corpus.TENANT, "job")

        for read in (store.get, store.progress, store.parts, store.cancel):
            with pytest.raises(JobNotFound):
                await read(corpus.TENANT, "job")
        assert await store.exists(corpus.TENANT, "job")
        waiting = await store.removable(completed_before=HOUR, limit=10)
        assert waiting == [JobKey(tenant=corpus.TENANT, id="job")]
        assert await self.raw_statuses(store) == {"job": "cancelled"}

    async def test_a_cancelled_job_can_never_become_complete(self, store: JobStore) -> None:
        """J6: cancelling revokes every lease, so that nobody can still publish."""
        await add(store)
        lease = await claim(store)

        await store.cancel(corpus.TENANT, "job")

        with pytest.raises(LeaseLost):
            await store.complete(lease, [corpus.part(lease)])
        with pytest.raises(LeaseLost):
            await store.renew(lease, lease_for=MINUTE, resources_done=1)
        with pytest.raises(LeaseLost):
            await fail(store, lease, max_attempts=1)
        with pytest.raises(LeaseLost):
            await store.release(lease)
        assert await self.raw_statuses(store) == {"job": "cancelled"}
        assert await nothing_to_claim(store)

    async def test_cancelling_a_finished_job_works(self, store: JobStore) -> None:
        """J6: a client deletes an export it has downloaded."""
        await finish(store)

        await store.cancel(corpus.TENANT, "job")

        assert await self.raw_statuses(store) == {"job": "cancelled"}

    async def test_a_deleted_job_takes_every_lease_away(self, store: JobStore) -> None:
        """J6: the holders of its shards can neither write anything nor revive it."""
        await add(store)
        lease = await claim(store)

        await store.delete(corpus.TENANT, "job")

        with pytest.raises(LeaseLost):
            await store.complete(lease, [corpus.part(lease)])
        with pytest.raises(LeaseLost):
            await store.renew(lease, lease_for=MINUTE, resources_done=1)
        assert not await store.exists(corpus.TENANT, "job")
        assert await self.raw_statuses(store) == {}

    async def test_a_deleted_job_leaves_nothing_and_may_be_deleted_again(
        self, store: JobStore
    ) -> None:
        """J6: parts included; the other jobs stay."""
        await finish(store, "gone")
        await finish(store, "stays")

        await store.delete(corpus.TENANT, "gone")
        await store.delete(corpus.TENANT, "gone")

        assert await self.raw_parts(store, "gone") == []
        assert len(await self.raw_parts(store, "stays")) == 1
        assert await self.raw_statuses(store) == {"stays": "complete"}

    async def test_finished_jobs_may_go_when_they_are_old_enough(self, store: JobStore) -> None:
        """J7: by the store's clock; jobs still active never, however old."""
        await finish(store, "completed")
        await add(store, "failed")
        await fail(store, await claim(store), max_attempts=1)
        await add(store, "active")

        too_early = await store.removable(completed_before=HOUR, limit=10)
        await self.let_pass(store, 2 * HOUR)
        in_time = await store.removable(completed_before=HOUR, limit=10)

        assert too_early == []
        assert sorted(job.id for job in in_time) == ["completed", "failed"]

    async def test_what_may_go_is_given_in_limited_numbers_and_for_all_tenants(
        self, store: JobStore
    ) -> None:
        """J10: the sweep covers all tenants, and gets no more than it requested."""
        for number in range(5):
            await finish(store, f"job-{number}", tenant=f"tenant-{number}")
        await self.let_pass(store, MINUTE)

        some = await store.removable(completed_before=AT_ONCE, limit=3)
        everything = await store.removable(completed_before=AT_ONCE, limit=10)

        assert len(some) == 3
        assert sorted(job.tenant for job in everything) == [f"tenant-{n}" for n in range(5)]

    async def test_a_job_of_another_tenant_cannot_be_seen(self, store: JobStore) -> None:
        """J10: not even whether it exists."""
        await finish(store)

        for read in (store.get, store.progress, store.parts):
            with pytest.raises(JobNotFound):
                await read(corpus.OTHER_TENANT, "job")
        assert not await store.exists(corpus.OTHER_TENANT, "job")

    async def test_a_job_of_another_tenant_cannot_be_ended(self, store: JobStore) -> None:
        """J10: cancel finds nothing, delete removes nothing."""
        await finish(store)

        with pytest.raises(JobNotFound):
            await store.cancel(corpus.OTHER_TENANT, "job")
        await store.delete(corpus.OTHER_TENANT, "job")

        assert await self.raw_statuses(store) == {"job": "complete"}
        assert len(await self.raw_parts(store, "job")) == 1

    async def test_an_unknown_job_is_not_found(self, store: JobStore) -> None:
        """J10: the same error as for a job of another tenant."""
        for read in (store.get, store.progress, store.parts, store.cancel):
            with pytest.raises(JobNotFound):
                await read(corpus.TENANT, "job")
        assert not await store.exists(corpus.TENANT, "job")
