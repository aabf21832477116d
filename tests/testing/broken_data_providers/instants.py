"""P1, P3: settled transaction times, and the state at one of them."""

import asyncio
from contextlib import contextmanager
from datetime import timedelta

import msgspec

from helios_core.memory.data_provider import MemoryDataProvider
from helios_core.memory.versions import is_shown
from helios_core.storage.resource_keys import TypeKey
from tests.testing.broken_data_providers.asking import asking
from tests.testing.on_memory import OnMemoryProvider

MICROSECOND = timedelta(microseconds=1)


class GivesTheNextInstant(MemoryDataProvider):
    """The transaction time is that of a write still to come."""

    async def transaction_time(self):
        return await super().transaction_time() + timedelta(milliseconds=200)


class TestGivesTheNextInstant(OnMemoryProvider):
    subject_class = GivesTheNextInstant
    caught_by = (
        "test_later_writes_are_later_than_the_transaction_time",
        "test_a_view_of_the_past_shows_the_past",
    )


class GivesAnEarlierInstant(MemoryDataProvider):
    async def transaction_time(self):
        return await super().transaction_time() - timedelta(hours=1)


class TestGivesAnEarlierInstant(OnMemoryProvider):
    subject_class = GivesAnEarlierInstant
    caught_by = (
        "test_the_transaction_time_is_not_before_what_is_stored",
        "test_the_system_level_shows_every_resource",
    )


class TrustsTheClock(MemoryDataProvider):
    """The machine's time is taken as it is."""

    async def transaction_time(self):
        self._last = self._clock()
        return self._last

    async def write(self, tenant, fhir_version, changes):
        self._last = self._clock() - MICROSECOND
        return await super().write(tenant, fhir_version, changes)


class TestTrustsTheClock(OnMemoryProvider):
    subject_class = TrustsTheClock
    caught_by = ("test_stamps_do_not_go_back_with_the_clock",)


@contextmanager
def _stamping(provider, stamp):
    """Use this instant for the next write, whatever came before."""
    clock, last = provider._clock, provider._last
    provider._clock, provider._last = lambda: stamp, stamp - MICROSECOND
    try:
        yield
    finally:
        provider._clock, provider._last = clock, max(last, provider._last)


class StampsBySeconds(MemoryDataProvider):
    """Two writes within a second carry one instant."""

    async def write(self, tenant, fhir_version, changes):
        stamp = max(self._clock().replace(microsecond=0), self._last)
        with _stamping(self, stamp):
            return await super().write(tenant, fhir_version, changes)


class TestStampsBySeconds(OnMemoryProvider):
    subject_class = StampsBySeconds
    caught_by = (
        "test_each_write_is_later_than_all_before_it",
        "test_later_writes_are_later_than_the_transaction_time",
        "test_concurrent_writers_lose_nothing",
    )


class StampsBeforeWaiting(MemoryDataProvider):
    """A writer takes its instant, then waits for its turn to commit."""

    async def write(self, tenant, fhir_version, changes):
        stamp = max(self._clock(), self._last + MICROSECOND)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with _stamping(self, stamp):
            return await super().write(tenant, fhir_version, changes)


class TestStampsBeforeWaiting(OnMemoryProvider):
    subject_class = StampsBeforeWaiting
    caught_by = ("test_a_transaction_time_is_settled_under_concurrent_writers",)


class GetsTheNewest(MemoryDataProvider):
    async def get(self, key, *, at=None):
        return await super().get(key)


class TestGetsTheNewest(OnMemoryProvider):
    subject_class = GetsTheNewest
    caught_by = ("test_get_shows_the_version_current_at_an_instant",)


class ShowsLaterWrites(MemoryDataProvider):
    """An export shows what is current when it reads."""

    def _changes(self, view, resource_type, shard=None):
        later = msgspec.structs.replace(view, transaction_time=self._last)
        return super()._changes(later, resource_type, shard)


class TestShowsLaterWrites(OnMemoryProvider):
    subject_class = ShowsLaterWrites
    caught_by = (
        "test_a_transaction_time_is_settled_under_concurrent_writers",
        "test_concurrent_writers_do_not_disturb_a_read",
        "test_a_view_of_the_past_shows_the_past",
        "test_planning_the_past_covers_the_past",
        "test_a_resource_follows_its_references",
        "test_since_shows_the_version_current_at_the_transaction_time",
        "test_deletions_after_the_transaction_time_are_not_named",
        "test_any_history_agrees_with_the_model",
    )


class LooksWhileReading(MemoryDataProvider):
    """What changes between two pages is missed or shown, as it happens."""

    async def read(self, view, shard, *, batch_bytes):
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            head = [msgspec.json.decode(line) for line in batch.lines]
            stored = self._collections[TypeKey.of(view.request, shard.resource_type)]
            kept = [
                line
                for line, each in zip(batch.lines, head, strict=True)
                if stored[each["id"]][-1].stored.content == line
            ]
            yield msgspec.structs.replace(batch, lines=kept)


class TestLooksWhileReading(OnMemoryProvider):
    subject_class = LooksWhileReading
    caught_by = (
        "test_changes_during_a_read_are_not_shown",
        "test_concurrent_writers_do_not_disturb_a_read",
    )


class ShowsTheFirstOfAnInstant(MemoryDataProvider):
    """Of two versions that carry one instant, the first is shown."""

    def _changes(self, view, resource_type, shard=None):
        for change in super()._changes(view, resource_type, shard):
            key = TypeKey.of(view.request, resource_type).resource(change.stored.id)
            stamp = change.stored.last_updated
            versions = self._versions(key)
            yield next(each for each in versions if each.stored.last_updated == stamp)


class TestShowsTheFirstOfAnInstant(OnMemoryProvider):
    subject_class = ShowsTheFirstOfAnInstant
    caught_by = (
        "test_a_resource_twice_in_one_write_is_applied_twice",
        "test_a_resource_written_and_deleted_at_once_is_not_shown",
    )


class ShowsTheFirstSince(MemoryDataProvider):
    """Of several changes since, the first is shown."""

    def _changes(self, view, resource_type, shard=None):
        for change in super()._changes(view, resource_type, shard):
            key = TypeKey.of(view.request, resource_type).resource(change.stored.id)
            versions = self._versions(key)
            yield next(each for each in versions if is_shown(view, each))


class TestShowsTheFirstSince(OnMemoryProvider):
    subject_class = ShowsTheFirstSince
    caught_by = ("test_since_shows_the_version_current_at_the_transaction_time",)


class TakesSinceIn(MemoryDataProvider):
    """What changed at `since` itself is shown once more."""

    def _changes(self, view, resource_type, shard=None):
        if view.request.since is not None:
            view = asking(view, since=view.request.since - MICROSECOND)
        return super()._changes(view, resource_type, shard)


class TestTakesSinceIn(OnMemoryProvider):
    subject_class = TakesSinceIn
    caught_by = (
        "test_since_is_exclusive",
        "test_deletions_since_are_named",
        "test_any_history_agrees_with_the_model",
    )


class TakesUntilIn(MemoryDataProvider):
    def _changes(self, view, resource_type, shard=None):
        if view.request.until is not None:
            view = asking(view, until=view.request.until + MICROSECOND)
        return super()._changes(view, resource_type, shard)


class TestTakesUntilIn(OnMemoryProvider):
    subject_class = TakesUntilIn
    caught_by = (
        "test_until_is_exclusive",
        "test_deletions_at_or_after_until_are_not_named",
    )


class TestForgetsOnRestart(OnMemoryProvider):
    persistent = True
    caught_by = (
        "test_candidates_outlive_a_restart",
        "test_stamps_do_not_go_back_across_a_restart",
        "test_two_providers_on_one_backing_share_a_clock",
        "test_writers_of_another_process_do_not_disturb_a_read",
        "test_chained_exports_over_providers_that_write_at_once_lose_nothing",
    )
