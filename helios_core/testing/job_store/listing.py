"""Clauses J15 and J16: the list of jobs, and the jobs in it that cannot be read."""

import pytest

from helios_core import (
    JobKey,
    JobQuery,
    JobStatus,
    JobStore,
    JobSummary,
    UnreadableJob,
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

EVERYTHING = JobQuery()
SPOILT = JobKey(tenant=corpus.TENANT, id="spoilt")


class ListingClauses(JobStoreContract):
    """Listing jobs, readable or not."""

    async def test_the_list_has_every_job_the_newest_first(self, store: JobStore) -> None:
        """J16: of every tenant and status, cancelled ones included, as they are."""
        await finish(store, "complete")
        await self.let_pass(store, MINUTE)
        await add(store, "failed", tenant=corpus.OTHER_TENANT)
        await fail(store, await claim(store), max_attempts=1)
        await self.let_pass(store, MINUTE)
        await add(store, "cancelled")
        await store.cancel(corpus.TENANT, "cancelled")
        await self.let_pass(store, MINUTE)
        added = await add(store, "waiting")

        listed = await store.jobs(EVERYTHING, limit=9)

        assert [(job.id, job.status) for job in listed] == [
            ("waiting", JobStatus.ACCEPTED),
            ("cancelled", JobStatus.CANCELLED),
            ("failed", JobStatus.ERROR),
            ("complete", JobStatus.COMPLETE),
        ]
        assert listed[0].job == added
        assert [job.tenant for job in listed].count(corpus.OTHER_TENANT) == 1
        assert (listed[2].failure, listed[3].failure) == ("the disk is full", None)

    async def test_the_list_says_how_far_jobs_are(self, store: JobStore) -> None:
        """J16: shards, resources, bytes, attempts and the last error, counted over the shards."""
        await add(store, shards=3)
        [before] = await store.jobs(EVERYTHING, limit=1)
        done, held, other = [await claim(store) for _ in range(3)]
        await store.complete(done, [corpus.part(done), corpus.part(done, number=2)])
        await store.renew(held, lease_for=MINUTE, resources_done=4)
        await fail(store, other, "the first error")
        again = await claim(store)
        await self.let_pass(store, MINUTE)
        await fail(store, again, "the last error")

        [listed] = await store.jobs(EVERYTHING, limit=1)

        assert (before.touched_at, before.attempts, before.bytes) == (None, 0, 0)
        assert listed.progress == await store.progress(corpus.TENANT, "job")
        assert listed.bytes == 2 * corpus.part(done).size
        assert (listed.attempts, listed.last_error) == (2, "the last error")
        assert listed.touched_at is not None
        assert listed.touched_at >= listed.created_at

    async def test_the_list_is_restricted_as_requested(self, store: JobStore) -> None:
        """J10, J16: by tenant, owner, status, age and the beginning of the id, or several."""
        await finish(store, "ab-1")
        await add(store, "ab-2", owner=None)
        await self.let_pass(store, HOUR)
        await add(store, "b-3", tenant=corpus.OTHER_TENANT)

        async def found(query: JobQuery) -> list[str]:
            return [job.id for job in await store.jobs(query, limit=9)]

        assert sorted(await found(JobQuery(tenant=corpus.TENANT))) == ["ab-1", "ab-2"]
        assert await found(JobQuery(tenant="nobody")) == []
        assert sorted(await found(JobQuery(owner="somebody"))) == ["ab-1", "b-3"]
        assert await found(JobQuery(owner="")) == ["ab-2"]
        assert await found(JobQuery(statuses=frozenset({JobStatus.COMPLETE}))) == ["ab-1"]
        assert await found(JobQuery(statuses=frozenset())) == []
        assert sorted(await found(JobQuery(id_prefix="ab"))) == ["ab-1", "ab-2"]
        assert await found(JobQuery(id_prefix="b")) == ["b-3"]
        assert await found(JobQuery(id_prefix="%")) == []
        assert sorted(await found(JobQuery(older_than=MINUTE))) == ["ab-1", "ab-2"]
        assert await found(JobQuery(younger_than=MINUTE)) == ["b-3"]
        assert await found(JobQuery(older_than=MINUTE, owner="")) == ["ab-2"]

    async def test_the_pages_of_the_list_repeat_and_miss_nothing(self, store: JobStore) -> None:
        """J16: even if jobs come and go meanwhile, or were created at the same instant."""
        for number in range(7):
            await add(store, f"job-{number}")
            await add(store, f"job-{number}", tenant=corpus.OTHER_TENANT)
        expected = [job.key for job in await store.jobs(EVERYTHING, limit=99)]
        pages = list[list[JobSummary]]()

        while page := await store.jobs(
            EVERYTHING, limit=3, after=pages[-1][-1].place if pages else None
        ):
            pages.append(page)
            if len(pages) < 4:
                await add(store, f"new-{len(pages)}")
            await store.delete(page[-1].tenant, page[-1].id)

        found = [job.key for page in pages for job in page if not job.id.startswith("new")]
        assert found == expected
        assert len(expected) == 14

    async def test_an_unreadable_job_keeps_no_other_from_being_claimed(
        self, store: JobStore
    ) -> None:
        """J15: it is not claimed, and no other job waits for it."""
        await add(store, "spoilt")
        await add(store, "sound", shards=2)
        await self.spoil(store, "spoilt")

        claimed = [await claim(store) for _ in range(2)]

        assert [lease.job.id for lease in claimed] == ["sound", "sound"]
        assert await nothing_to_claim(store)
        assert store.unreadable == [SPOILT]
        with pytest.raises(UnreadableJob):
            await store.get(corpus.TENANT, "spoilt")

    async def test_an_unreadable_job_is_listed_as_such(self, store: JobStore) -> None:
        """J15, J16: with all that is known of it, in the order of the list."""
        await finish(store, "spoilt")
        await self.let_pass(store, MINUTE)
        await add(store, "sound")
        await self.spoil(store, "spoilt")

        sound, spoilt = await store.jobs(EVERYTHING, limit=9)

        assert sound.job is not None
        assert spoilt.job is None
        assert (spoilt.key, spoilt.owner, spoilt.status) == (SPOILT, "somebody", "complete")
        assert spoilt.progress.shards_done == 1
        assert store.unreadable == [SPOILT]
        assert await store.recent(corpus.TENANT, limit=9) == []

    async def test_an_unreadable_job_can_be_ended(self, store: JobStore) -> None:
        """J6, J15: it frees its slot, and leaves nothing when it is deleted."""
        await add(store, "spoilt")
        await self.spoil(store, "spoilt")

        await store.cancel(corpus.TENANT, "spoilt")

        await add(store, "sound", max_active=1)
        assert await store.removable(completed_before=HOUR, limit=9) == [SPOILT]
        await store.delete(corpus.TENANT, "spoilt")
        assert await self.raw_statuses(store) == {"sound": "accepted"}

    async def test_a_job_whose_token_cannot_grow_is_set_aside(self, store: JobStore) -> None:
        """J3, J15: since no claim can raise it; and every process that lists it notices."""
        await add(store, "spoilt", shards=2)
        await add(store, "sound")
        await self.spoil(store, "spoilt", "token")

        listed = await store.jobs(EVERYTHING, limit=9)
        claimed = await claim(store)

        assert {job.id: job.job is not None for job in listed} == {"spoilt": False, "sound": True}
        assert claimed.job.id == "sound"
        assert await nothing_to_claim(store)
        assert store.unreadable == [SPOILT]

    @pytest.mark.parametrize("by", ["cancel", "end_untouched"])
    async def test_a_job_whose_token_cannot_grow_can_be_ended(
        self, store: JobStore, by: str
    ) -> None:
        """J6, J15, J18: it frees its slot, and leaves nothing when it is deleted."""
        await add(store, "spoilt")
        await self.spoil(store, "spoilt", "token")
        await self.let_pass(store, 2 * HOUR)

        if by == "cancel":
            await store.cancel(corpus.TENANT, "spoilt")
        else:
            assert await store.end_untouched(HOUR, reason="why", limit=9) == [SPOILT]

        await add(store, "sound", max_active=1)
        await store.delete(corpus.TENANT, "spoilt")
        assert await self.raw_statuses(store) == {"sound": "accepted"}

    async def test_an_unreadable_job_expires_as_others_do(self, store: JobStore) -> None:
        """J15: otherwise its files would stay for ever."""
        await finish(store, "spoilt")
        await finish(store, "sound")
        await self.spoil(store, "spoilt")
        await self.let_pass(store, 2 * HOUR)

        removable = await store.removable(completed_before=HOUR, limit=9)

        assert sorted(key.id for key in removable) == ["sound", "spoilt"]
