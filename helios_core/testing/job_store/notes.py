"""Clause J13: the notes of shards for later phases."""

from pathlib import Path

import pytest

from helios_core import JobNotFound, JobStore, LeaseLost
from helios_core.testing import corpus
from helios_core.testing.job_store.contract import HOUR, JobStoreContract, add, claim, fail

LARGE = bytes(range(256)) * 4096
"""A megabyte in which every byte occurs."""


class NoteClauses(JobStoreContract):
    """Keeping, returning and removing notes."""

    async def test_notes_come_by_shard_number_and_unchanged(self, store: JobStore) -> None:
        """J13: of all shards that have notes, in whatever order they were completed."""
        await add(store, shards=3)
        zero, one, two = [await claim(store) for _ in range(3)]
        assert await _notes(store) == []

        await store.complete(two, [corpus.part(two)], notes=LARGE)
        await store.complete(one, [corpus.part(one)])
        assert await _notes(store) == [LARGE]
        await store.complete(zero, [], notes=b"Practitioner/a\n")

        assert await _notes(store) == [b"Practitioner/a\n", LARGE]

    async def test_a_superseded_lease_cannot_keep_notes(self, store: JobStore) -> None:
        """J4, J13: the notes are those that were published with the shard's parts."""
        await add(store)
        old = await claim(store)
        await self.let_pass(store, HOUR)
        new = await claim(store)

        with pytest.raises(LeaseLost):
            await store.complete(old, [], notes=b"old")
        assert await _notes(store) == []
        await store.complete(new, [], notes=b"new")
        with pytest.raises(LeaseLost):
            await store.complete(old, [], notes=b"old")

        assert await _notes(store) == [b"new"]

    async def test_notes_are_there_when_the_next_phase_begins(self, store: JobStore) -> None:
        """J11, J13: and only those of attempts that succeeded."""
        await add(store, shards=corpus.shards(2, phases=(0, 1)))
        await fail(store, await claim(store))
        lease = await claim(store)
        await store.complete(lease, [corpus.part(lease)], notes=b"noted")

        later = await claim(store)

        assert later.shard.phase == 1
        assert await _notes(store) == [b"noted"]

    async def test_notes_go_with_their_job(self, store: JobStore) -> None:
        """J13: a cancelled job has none, and a new job with the id of a deleted one has none."""
        await _noting(store)
        await store.cancel(corpus.TENANT, "job")
        with pytest.raises(JobNotFound):
            await _notes(store)
        await store.delete(corpus.TENANT, "job")
        with pytest.raises(JobNotFound):
            await _notes(store)

        await add(store)

        assert await _notes(store) == []

    async def test_notes_stay_with_their_tenant_and_job(self, store: JobStore) -> None:
        """J10, J13: jobs with the same id or tenant do not see each other's notes."""
        await _noting(store, notes=b"one")
        await _noting(store, tenant=corpus.OTHER_TENANT, notes=b"two")
        await _noting(store, "another", notes=b"three")

        assert await _notes(store) == [b"one"]
        assert await _notes(store, tenant=corpus.OTHER_TENANT) == [b"two"]
        assert await _notes(store, "another") == [b"three"]
        with pytest.raises(JobNotFound):
            await _notes(store, "another", tenant=corpus.OTHER_TENANT)

    async def test_notes_are_there_after_a_restart(self, tmp_path: Path) -> None:
        """J13: another process may run the next phase."""
        self.needs_persistence()
        async with self.opened(tmp_path) as store:
            await _noting(store, notes=LARGE)

        async with self.opened(tmp_path) as store:
            assert await _notes(store) == [LARGE]


async def _noting(
    store: JobStore,
    job_id: str = "job",
    *,
    tenant: str = corpus.TENANT,
    notes: bytes = b"noted",
) -> None:
    await add(store, job_id, tenant=tenant)
    await store.complete(await claim(store), [], notes=notes)


async def _notes(
    store: JobStore, job_id: str = "job", *, tenant: str = corpus.TENANT
) -> list[bytes]:
    return [notes async for notes in store.notes(tenant, job_id)]
