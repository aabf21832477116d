"""J13: what a shard notes for the later phases of its job."""

from helios_core.memory.job_store import MemoryJobStore
from tests.testing.on_memory import OnMemoryJobs


class LosesNotes(MemoryJobStore):
    async def complete(self, lease, parts, *, notes=b""):
        return await super().complete(lease, parts, notes=b"" if parts else notes)


class TestLosesNotes(OnMemoryJobs):
    subject_class = LosesNotes
    caught_by = (
        "test_notes_come_by_shard_number_and_unchanged",
        "test_notes_are_there_when_the_next_phase_begins",
    )


class GivesEmptyNotes(MemoryJobStore):
    """A shard that noted nothing is told too."""

    async def notes(self, tenant, job_id):
        for work in self._visible(tenant, job_id).work:
            if work.parts is not None:
                yield work.notes


class TestGivesEmptyNotes(OnMemoryJobs):
    subject_class = GivesEmptyNotes
    caught_by = ("test_notes_come_by_shard_number_and_unchanged",)


class KeepsNotesFirst(MemoryJobStore):
    """The notes are stored before the lease is looked at."""

    async def complete(self, lease, parts, *, notes=b""):
        entry = self._entries.get((lease.job.tenant, lease.job.id))
        if entry is not None:
            entry.work[lease.shard.number].notes = notes
        return await super().complete(lease, parts, notes=notes)


class TestKeepsNotesFirst(OnMemoryJobs):
    subject_class = KeepsNotesFirst
    caught_by = ("test_a_superseded_lease_cannot_keep_notes",)


class KeepsNotesByJobName(MemoryJobStore):
    """Notes have a place of their own, from which nothing is ever taken."""

    def __init__(self, **options):
        super().__init__(**options)
        self._kept = {}

    async def complete(self, lease, parts, *, notes=b""):
        status = await super().complete(lease, parts)
        self._kept.setdefault(lease.job.id, {})[lease.shard.number] = notes
        return status

    async def notes(self, tenant, job_id):
        for _, notes in sorted(self._kept.get(job_id, {}).items()):
            if notes:
                yield notes


class TestKeepsNotesByJobName(OnMemoryJobs):
    subject_class = KeepsNotesByJobName
    caught_by = ("test_notes_go_with_their_job", "test_notes_stay_with_their_tenant_and_job")
