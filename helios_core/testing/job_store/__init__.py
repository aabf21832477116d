"""The contract suite of job stores: clauses J1 to J20 of `JobStore`, and its powers."""

import asyncio
from pathlib import Path

import pytest

from helios_core import LeaseLost, TooManyExports
from helios_core.testing import corpus
from helios_core.testing.job_store.contract import (
    HOUR,
    MINUTE,
    PLENTY,
    add,
    claim,
    fail,
    finish,
    nothing_to_claim,
)
from helios_core.testing.job_store.endings import EndingClauses
from helios_core.testing.job_store.leases import LeaseClauses
from helios_core.testing.job_store.listing import ListingClauses
from helios_core.testing.job_store.losses import LossClauses
from helios_core.testing.job_store.machine import JobStoreMachine
from helios_core.testing.job_store.notes import NoteClauses
from helios_core.testing.job_store.outages import OutageClauses, postpone
from helios_core.testing.job_store.records import RecordClauses
from helios_core.testing.job_store.workforce import WorkforceClauses
from helios_core.testing.machines import drive


class JobStoreSuite(
    LeaseClauses,
    EndingClauses,
    NoteClauses,
    LossClauses,
    ListingClauses,
    WorkforceClauses,
    OutageClauses,
    RecordClauses,
):
    """
    Tests that every job store passes, one or more for each of J1 to J20.

    A subclass implements what `JobStoreContract` lists, and states whether it is `persistent` and
    whether it has the power of `SupportsRecords`.
    """

    async def test_everything_is_there_after_a_restart(self, tmp_path: Path) -> None:
        """J1, J3, J5, J9: jobs, parts, leases, attempts and the identity outlive a process."""
        self.needs_persistence()
        async with self.opened(tmp_path) as store:
            identity = store.identity
            await finish(store, "completed")
            await add(store, "active", shards=2)
            await fail(store, await claim(store), "before the restart")
            held = await claim(store, lease_for=HOUR)
            before = [await store.get(corpus.TENANT, name) for name in ("completed", "active")]
            parts = await store.parts(corpus.TENANT, "completed")

        async with self.opened(tmp_path) as store:
            after = [await store.get(corpus.TENANT, name) for name in ("completed", "active")]
            assert after == before
            assert await store.parts(corpus.TENANT, "completed") == parts
            assert store.identity == identity
            other = await claim(store)
            assert (held.shard.number, held.attempt) == (0, 2)
            assert (other.shard.number, other.attempt) == (1, 1)
            assert await nothing_to_claim(store)
            await store.complete(held, [corpus.part(held)])

    async def test_a_lease_lapses_across_a_restart(self, tmp_path: Path) -> None:
        """J3, J4: after a crash, a returning worker finds a newer token than its own."""
        self.needs_persistence()
        async with self.opened(tmp_path) as store:
            await add(store)
            old = await claim(store)
            await self.let_pass(store, HOUR)

        async with self.opened(tmp_path) as store:
            new = await claim(store)
            assert new.token > old.token
            with pytest.raises(LeaseLost):
                await store.complete(old, [corpus.part(old)])

    async def test_two_stores_on_one_backing_give_each_shard_once(self, tmp_path: Path) -> None:
        """J2: workers of several processes share the work."""
        self.needs_persistence()
        async with self.opened(tmp_path) as one, self.opened(tmp_path) as two:
            await add(one, shards=12)

            async with asyncio.TaskGroup() as group:
                claims = [
                    group.create_task(store.claim("w", lease_for=MINUTE, max_attempts=PLENTY))
                    for _ in range(10)
                    for store in (one, two)
                ]

        leases = [lease for task in claims if (lease := task.result()) is not None]
        assert sorted(lease.shard.number for lease in leases) == list(range(12))

    async def test_two_stores_on_one_backing_share_the_cap(self, tmp_path: Path) -> None:
        """J1: two servers do not admit twice as many exports."""
        self.needs_persistence()
        async with self.opened(tmp_path) as one, self.opened(tmp_path) as two:
            adds = (
                add(store, f"job-{number}-{index}", max_active=4)
                for number in range(8)
                for index, store in enumerate((one, two))
            )
            results = await asyncio.gather(*adds, return_exceptions=True)

            assert len(await self.raw_statuses(one)) == 4

        refused = [result for result in results if isinstance(result, BaseException)]
        assert {type(error) for error in refused} == {TooManyExports}
        assert len(refused) == 12

    async def test_the_workers_of_every_store_on_one_backing_count(self, tmp_path: Path) -> None:
        """J17: a server knows the workers on other machines, and still after a restart."""
        self.needs_persistence()
        async with self.opened(tmp_path) as one, self.opened(tmp_path) as two:
            await one.beat("one", lasts=HOUR)
            await two.beat("two", lasts=HOUR)
            assert (await one.workforce()).alive == (await two.workforce()).alive == 2

        async with self.opened(tmp_path) as store:
            assert (await store.workforce()).alive == 2

    async def test_the_wait_for_a_backend_outlives_a_restart(self, tmp_path: Path) -> None:
        """J19: every process knows how long a shard has waited, and for what."""
        self.needs_persistence()
        async with self.opened(tmp_path) as store:
            await add(store)
            await postpone(store, await claim(store), "the reason")
            await self.let_pass(store, HOUR)

        async with self.opened(tmp_path) as store:
            assert (await store.progress(corpus.TENANT, "job")).waiting_for == "the reason"
            lease = await claim(store)
            assert lease.postponed == 1
            assert not await postpone(store, lease)

    async def test_a_cancel_reaches_the_workers_of_another_store(self, tmp_path: Path) -> None:
        """J6: the server that cancels is seldom the one whose worker holds the shard."""
        self.needs_persistence()
        async with self.opened(tmp_path) as one, self.opened(tmp_path) as two:
            await add(one)
            lease = await claim(two)

            await one.cancel(corpus.TENANT, "job")

            assert not await two.is_held(lease)
            with pytest.raises(LeaseLost):
                await two.complete(lease, [corpus.part(lease)])
            assert one.identity == two.identity

    def test_any_life_of_jobs_agrees_with_the_model(self) -> None:
        """J1 to J6, J8, J9, J11 and J19, in random mixtures."""
        drive(JobStoreMachine, self)
