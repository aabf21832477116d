"""Clause J20: lost records of a job are noticed."""

from datetime import timedelta

import pytest

from helios_core import BackendError, JobKey, JobStatus, JobStore, PartKind
from helios_core.testing import corpus
from helios_core.testing.job_store.contract import (
    HOUR,
    JobStoreContract,
    add,
    claim,
    nothing_to_claim,
)


class LossClauses(JobStoreContract):
    """Shards, parts and notes that are gone."""

    @pytest.mark.parametrize("lost", [0, 1, 2])
    async def test_a_job_that_lost_a_shard_never_becomes_complete(
        self, store: JobStore, lost: int
    ) -> None:
        """J20: whichever shard it is, completed or not claimed yet."""
        await add(store, shards=3)
        first = await claim(store)
        await store.complete(first, [corpus.part(first)])
        await self.lose(store, "job", "shard", lost)

        status = JobStatus.IN_PROGRESS
        while (lease := await store.claim("worker", lease_for=HOUR, max_attempts=9)) is not None:
            status = await store.complete(lease, [corpus.part(lease)])

        ended = await store.get(corpus.TENANT, "job")
        assert status is ended.status is JobStatus.ERROR
        assert "shards are missing" in (ended.failure or "")
        assert ended.completed_at is not None

    async def test_a_job_without_any_shard_left_is_given_up(self, store: JobStore) -> None:
        """J20: because no claim would ever end it; intact jobs go on."""
        await add(store, "lost")
        await add(store, "kept")
        await self.lose(store, "lost", "shard", 0)

        ended = await store.end_untouched(timedelta(days=7), reason="nobody came", limit=9)

        assert ended == [JobKey(tenant=corpus.TENANT, id="lost")]
        assert "shards are missing" in ((await store.get(corpus.TENANT, "lost")).failure or "")
        assert (await claim(store)).job.id == "kept"
        assert await nothing_to_claim(store)

    async def test_a_complete_job_that_lost_a_shard_shows_no_parts(self, store: JobStore) -> None:
        """J20: because its counts of parts are lost with it."""
        await _complete(store)
        await self.lose(store, "job", "shard", 1)

        with pytest.raises(BackendError, match="missing"):
            await store.parts(corpus.TENANT, "job")

    @pytest.mark.parametrize("kind", PartKind)
    async def test_a_job_that_lost_a_part_shows_none(
        self, store: JobStore, kind: PartKind
    ) -> None:
        """J20: of any kind, including those that hold no resources."""
        await _complete(store, kind=kind)
        assert len(await store.parts(corpus.TENANT, "job")) == 2
        await self.lose(store, "job", "part", 1)

        with pytest.raises(BackendError, match="missing"):
            await store.parts(corpus.TENANT, "job")

    async def test_a_job_that_lost_notes_shows_none(self, store: JobStore) -> None:
        """J20: otherwise a later phase would silently export less."""
        await _complete(store)
        assert [each async for each in store.notes(corpus.TENANT, "job")] == [b"0", b"1"]
        await self.lose(store, "job", "notes", 1)

        with pytest.raises(BackendError, match="missing"):
            [each async for each in store.notes(corpus.TENANT, "job")]


async def _complete(store: JobStore, *, kind: PartKind = PartKind.OUTPUT) -> None:
    await add(store, shards=2)
    for _ in range(2):
        lease = await claim(store)
        part = corpus.part(lease, kind=kind)
        await store.complete(lease, [part], notes=str(lease.shard.number).encode())
