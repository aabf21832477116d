"""J15, J16: lists that lack, repeat or change something, and jobs that nobody can read."""

from datetime import timedelta

import msgspec

from helios_core import MAX_TOKEN
from helios_core.errors import BackendUnavailable, UnreadableJob
from helios_core.memory.job_store import MemoryJobStore
from helios_core.model.jobs import JobQuery, JobStatus
from tests.testing.on_memory import OnMemoryJobs

ALL = 1_000_000


class ListsTheOldestFirst(MemoryJobStore):
    async def jobs(self, query, *, limit, after=None):
        return list(reversed(await super().jobs(query, limit=limit, after=after)))


class TestListsTheOldestFirst(OnMemoryJobs):
    subject_class = ListsTheOldestFirst
    caught_by = (
        "test_the_list_has_every_job_the_newest_first",
        "test_an_unreadable_job_is_listed_as_such",
    )


class ListsNoCancelledJobs(MemoryJobStore):
    async def jobs(self, query, *, limit, after=None):
        found = await super().jobs(query, limit=ALL, after=after)
        return [job for job in found if job.status != JobStatus.CANCELLED][:limit]


class TestListsNoCancelledJobs(OnMemoryJobs):
    subject_class = ListsNoCancelledJobs
    caught_by = ("test_the_list_has_every_job_the_newest_first",)


class CountsNothing(MemoryJobStore):
    async def jobs(self, query, *, limit, after=None):
        found = await super().jobs(query, limit=limit, after=after)
        return [msgspec.structs.replace(job, bytes=0, attempts=0) for job in found]


class TestCountsNothing(OnMemoryJobs):
    subject_class = CountsNothing
    caught_by = ("test_the_list_says_how_far_jobs_are",)


class IgnoresTheOwner(MemoryJobStore):
    async def jobs(self, query, *, limit, after=None):
        query = msgspec.structs.replace(query, owner=query.owner or None)
        return await super().jobs(query, limit=limit, after=after)


class TestIgnoresTheOwner(OnMemoryJobs):
    subject_class = IgnoresTheOwner
    caught_by = ("test_the_list_is_restricted_as_requested",)


class CountsPages(MemoryJobStore):
    """The next page begins after as many jobs as were shown, whatever came or went meanwhile."""

    shown = 0

    async def jobs(self, query, *, limit, after=None):
        first = 0 if after is None else self.shown
        self.shown = first + limit
        return (await super().jobs(query, limit=ALL))[first : first + limit]


class TestCountsPages(OnMemoryJobs):
    subject_class = CountsPages
    caught_by = ("test_the_pages_of_the_list_repeat_and_miss_nothing",)


class PagesByInstantAlone(MemoryJobStore):
    async def jobs(self, query, *, limit, after=None):
        found = await super().jobs(query, limit=ALL)
        return [job for job in found if not after or job.created_at < after.created_at][:limit]


class TestPagesByInstantAlone(OnMemoryJobs):
    subject_class = PagesByInstantAlone
    caught_by = ("test_the_pages_of_the_list_repeat_and_miss_nothing",)


class StumblesOverUnreadableJobs(MemoryJobStore):
    async def claim(self, worker, **options):
        for entry in self._entries.values():
            if entry.status.active:
                entry.job  # noqa: B018 - raises
        return await super().claim(worker, **options)


class TestStumblesOverUnreadableJobs(OnMemoryJobs):
    subject_class = StumblesOverUnreadableJobs
    caught_by = (
        "test_an_unreadable_job_keeps_no_other_from_being_claimed",
        "test_an_unreadable_job_that_nobody_touches_ends",
    )


class HidesUnreadableJobs(MemoryJobStore):
    async def jobs(self, query, *, limit, after=None):
        found = await super().jobs(query, limit=ALL, after=after)
        return [job for job in found if job.job is not None][:limit]


class TestHidesUnreadableJobs(OnMemoryJobs):
    subject_class = HidesUnreadableJobs
    caught_by = ("test_an_unreadable_job_is_listed_as_such",)


class ListsNoDamagedTokens(MemoryJobStore):
    """Only a claim meets a token that cannot grow."""

    async def jobs(self, query, *, limit, after=None):
        tokens = {work: work.token for entry in self._entries.values() for work in entry.work}
        for work in tokens:
            work.token = 0
        try:
            return await super().jobs(query, limit=limit, after=after)
        finally:
            for work, token in tokens.items():
                work.token = token


class TestListsNoDamagedTokens(OnMemoryJobs):
    subject_class = ListsNoDamagedTokens
    caught_by = ("test_a_job_whose_token_cannot_grow_is_set_aside",)


class RaisesEveryTokenOfWhatEnds(MemoryJobStore):
    """A token that cannot grow keeps its job."""

    async def cancel(self, tenant, job_id):
        self._raise_tokens(self._entries[tenant, job_id])
        await super().cancel(tenant, job_id)

    async def end_untouched(self, untouched_for, *, reason, limit):
        for entry in self._entries.values():
            self._raise_tokens(entry)
        return await super().end_untouched(untouched_for, reason=reason, limit=limit)

    def _raise_tokens(self, entry):
        if any(work.token + 1 > MAX_TOKEN for work in entry.work):
            raise BackendUnavailable


class TestRaisesEveryTokenOfWhatEnds(OnMemoryJobs):
    subject_class = RaisesEveryTokenOfWhatEnds
    caught_by = ("test_a_job_whose_token_cannot_grow_can_be_ended",)


class ReadsWhatItCancels(MemoryJobStore):
    async def cancel(self, tenant, job_id):
        await self.get(tenant, job_id)
        await super().cancel(tenant, job_id)


class TestReadsWhatItCancels(OnMemoryJobs):
    subject_class = ReadsWhatItCancels
    caught_by = ("test_an_unreadable_job_can_be_ended",)


class KeepsUnreadableJobs(MemoryJobStore):
    """What cannot be read never goes."""

    async def removable(self, *, completed_before, limit):
        found = await super().removable(completed_before=completed_before, limit=limit)
        listed = await self.jobs(JobQuery(), limit=ALL)
        readable = {job.key for job in listed if job.job is not None}
        return [key for key in found if key in readable]


class TestKeepsUnreadableJobs(OnMemoryJobs):
    subject_class = KeepsUnreadableJobs
    caught_by = (
        "test_an_unreadable_job_can_be_ended",
        "test_an_unreadable_job_expires_as_others_do",
    )


class GivesUpReadableJobsOnly(MemoryJobStore):
    async def end_untouched(self, untouched_for, *, reason, limit):
        for entry in self._entries.values():
            try:
                entry.job  # noqa: B018 - raises
            except UnreadableJob:
                entry.created_at += timedelta(days=1000)
        return await super().end_untouched(untouched_for, reason=reason, limit=limit)


class TestGivesUpReadableJobsOnly(OnMemoryJobs):
    subject_class = GivesUpReadableJobsOnly
    caught_by = ("test_an_unreadable_job_that_nobody_touches_ends",)
