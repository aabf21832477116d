"""J8, J11: whose turn it is, and what has to wait."""

import asyncio

from helios_core.memory.job_store import MemoryJobStore
from tests.testing.on_memory import OnMemoryJobs


class FirstComeFirstServed(MemoryJobStore):
    def _next_in_turn(self, now):
        self._served.clear()
        return super()._next_in_turn(now)


class TestFirstComeFirstServed(OnMemoryJobs):
    subject_class = FirstComeFirstServed
    caught_by = (
        "test_a_busy_tenant_does_not_starve_another",
        "test_tenants_take_turns",
        "test_a_tenant_that_waited_comes_before_one_served_since",
        "test_any_life_of_jobs_agrees_with_the_model",
    )


class NewestFirst(MemoryJobStore):
    def _next_in_turn(self, now):
        self._entries = dict(reversed(self._entries.items()))
        for place, entry in enumerate(self._entries.values()):
            entry.position = place
        found = super()._next_in_turn(now)
        self._entries = dict(reversed(self._entries.items()))
        return found


class TestNewestFirst(OnMemoryJobs):
    subject_class = NewestFirst
    caught_by = ("test_within_a_tenant_the_oldest_job_and_lowest_shard_come_first",)


def _free_in_turn(store, now):
    active = [entry for entry in store._entries.values() if entry.job.status.active]
    active.sort(key=lambda entry: (store._served[entry.job.tenant], entry.position))
    return ((entry, work) for entry in active for work in entry.work if work.free(now))


class IgnoresThePhases(MemoryJobStore):
    def _next_in_turn(self, now):
        return next(_free_in_turn(self, now), None)


class TestIgnoresThePhases(OnMemoryJobs):
    subject_class = IgnoresThePhases
    caught_by = (
        "test_a_shard_waits_for_the_earlier_phases_of_its_job",
        "test_a_phase_waits_for_shards_that_have_to_be_tried_again",
        "test_any_life_of_jobs_agrees_with_the_model",
    )


class TakesHeldShardsForComplete(MemoryJobStore):
    """A phase begins as soon as nothing of the one before can be claimed."""

    def _next_in_turn(self, now):
        return min(_free_in_turn(self, now), key=lambda found: found[1].shard.phase, default=None)


class TestTakesHeldShardsForComplete(OnMemoryJobs):
    subject_class = TakesHeldShardsForComplete
    caught_by = (
        "test_a_shard_waits_for_the_earlier_phases_of_its_job",
        "test_a_phase_waits_for_shards_that_have_to_be_tried_again",
    )


class MixesThePhasesOfJobs(MemoryJobStore):
    """A phase is one of the whole store."""

    def _next_in_turn(self, now):
        active = [entry for entry in self._entries.values() if entry.job.status.active]
        undone = [w.shard.phase for entry in active for w in entry.work if w.parts is None]
        found = super()._next_in_turn(now)
        return found if found and found[1].shard.phase == min(undone) else None


class TestMixesThePhasesOfJobs(OnMemoryJobs):
    subject_class = MixesThePhasesOfJobs
    caught_by = ("test_a_waiting_phase_keeps_no_other_job_waiting",)


class WaitsForEver(MemoryJobStore):
    async def wait_for_work(self, at_most):
        await asyncio.sleep(3600)


class TestWaitsForEver(OnMemoryJobs):
    subject_class = WaitsForEver
    caught_by = ("test_waiting_for_work_ends",)
