"""J17, J18: workers that live too long or too short, and jobs that are given up wrongly."""

from datetime import timedelta

import msgspec

from helios_core.memory.job_store import MemoryJobStore
from tests.testing.on_memory import OnMemoryJobs


class LivesForEver(MemoryJobStore):
    async def beat(self, worker, *, lasts):
        await super().beat(worker, lasts=timedelta(days=1000))


class TestLivesForEver(OnMemoryJobs):
    subject_class = LivesForEver
    caught_by = ("test_a_worker_is_alive_until_its_time_is_over",)


class CountsFromTheFirstBeat(MemoryJobStore):
    async def beat(self, worker, *, lasts):
        if worker not in self._alive:
            await super().beat(worker, lasts=lasts)


class TestCountsFromTheFirstBeat(OnMemoryJobs):
    subject_class = CountsFromTheFirstBeat
    caught_by = ("test_a_worker_is_alive_until_its_time_is_over",)


class RetiresEverybody(MemoryJobStore):
    async def retire(self, worker):
        self._alive.clear()


class TestRetiresEverybody(OnMemoryJobs):
    subject_class = RetiresEverybody
    caught_by = ("test_a_worker_that_retires_is_alive_no_longer",)


class BelievesTheClock(MemoryJobStore):
    async def workforce(self):
        alive = sum(until > self._clock() for until, _ in self._alive.values())
        return msgspec.structs.replace(await super().workforce(), alive=alive)


class TestBelievesTheClock(OnMemoryJobs):
    subject_class = BelievesTheClock
    caught_by = ("test_a_clock_set_back_keeps_no_worker_alive",)


class CountsAcceptedJobs(MemoryJobStore):
    """A job that was begun once waits no longer, also when its worker is dead."""

    async def workforce(self):
        waiting = sum(entry.status == "accepted" for entry in self._entries.values())
        return msgspec.structs.replace(await super().workforce(), waiting=waiting)


class TestCountsAcceptedJobs(OnMemoryJobs):
    subject_class = CountsAcceptedJobs
    caught_by = ("test_jobs_wait_until_a_worker_holds_a_shard",)


class GivesUpWithoutAReason(MemoryJobStore):
    async def end_untouched(self, untouched_for, *, reason, limit):
        return await super().end_untouched(untouched_for, reason="", limit=limit)


class TestGivesUpWithoutAReason(OnMemoryJobs):
    subject_class = GivesUpWithoutAReason
    caught_by = ("test_jobs_that_nobody_touched_end_in_error",)


class CountsFromTheBeginning(MemoryJobStore):
    """However busy its workers are, an export that takes long is ended."""

    async def end_untouched(self, untouched_for, *, reason, limit):
        for entry in self._entries.values():
            for work in entry.work:
                work.touched_at = None
        return await super().end_untouched(untouched_for, reason=reason, limit=limit)


class TestCountsFromTheBeginning(OnMemoryJobs):
    subject_class = CountsFromTheBeginning
    caught_by = ("test_whatever_a_worker_does_touches_a_job",)


class LeavesLeasesOfWhatItGivesUp(MemoryJobStore):
    async def end_untouched(self, untouched_for, *, reason, limit):
        before = {key: entry.status for key, entry in self._entries.items()}
        held = {id(w): (w.token, w.free_at) for e in self._entries.values() for w in e.work}
        ended = await super().end_untouched(untouched_for, reason=reason, limit=limit)
        for key in ended:
            entry = self._entries[key.tenant, key.id]
            entry.status = before[key.tenant, key.id]
            for work in entry.work:
                work.held = True
                work.token, work.free_at = held[id(work)]
        return ended


class TestLeavesLeasesOfWhatItGivesUp(OnMemoryJobs):
    subject_class = LeavesLeasesOfWhatItGivesUp
    caught_by = ("test_a_job_that_was_given_up_takes_every_lease_away",)


class GivesUpEndedJobs(MemoryJobStore):
    async def end_untouched(self, untouched_for, *, reason, limit):
        now, ended = (
            self._clock(),
            await super().end_untouched(untouched_for, reason=reason, limit=limit),
        )
        for entry in self._entries.values():
            if not entry.status.active and entry.key not in ended:
                entry.end(type(entry.status).ERROR, now, failure=reason)
                ended.append(entry.key)
        return ended


class TestGivesUpEndedJobs(OnMemoryJobs):
    subject_class = GivesUpEndedJobs
    caught_by = ("test_jobs_that_ended_are_not_given_up",)
