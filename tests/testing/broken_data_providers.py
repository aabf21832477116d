"""
Data providers that are wrong on purpose, each held to the suite by a class of its own.

Not collected with the other tests: `test_broken_backends.py` runs this file and checks that every
class fails the tests in `caught_by`, the ones that name the broken clause.
"""

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
from xxhash import xxh3_64_intdigest

from helios_core.data_providers import Applied, Batch, Order, Outcome, Page, Put
from helios_core.errors import VersionConflict
from helios_core.exports import Level, Shard
from helios_core.fhir.search import AllOf, AnyId, AnyOf, AnyTerm, Updated
from helios_core.fhir.versions import FHIRVersion
from helios_core.memory.data import MemoryDataProvider
from helios_core.memory.versions import current_version, shows
from helios_core.testing import corpus
from tests.testing.on_memory import OnMemoryProvider

MICROSECOND = timedelta(microseconds=1)


def _asking(view, **changes):
    """The view as a provider sees it that overlooks something in the request."""
    request = msgspec.structs.replace(view.request, **changes)
    return msgspec.structs.replace(view, request=request)


class LosesARowPerPage(MemoryDataProvider):
    """The next page begins one row too late."""

    async def read(self, view, shard, *, batch_bytes):
        first = True
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            yield batch if first else msgspec.structs.replace(batch, lines=batch.lines[1:])
            first = False


class TestLosesARowPerPage(OnMemoryProvider):
    subject_class = LosesARowPerPage
    caught_by = (
        "test_batches_cover_a_shard_exactly_once",
        "test_shards_can_be_read_at_the_same_time",
        "test_a_resource_larger_than_a_batch_comes_alone",
        "test_reading_a_shard_again_gives_the_same",
        "test_any_history_agrees_with_the_model",
    )


class ForgetsADigest(MemoryDataProvider):
    async def read(self, view, shard, *, batch_bytes):
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            digests = [xxh3_64_intdigest(line) for line in batch.lines]
            yield msgspec.structs.replace(batch, digests=[*digests[:-1], 0])


class TestForgetsADigest(OnMemoryProvider):
    subject_class = ForgetsADigest
    caught_by = ("test_digests_that_are_given_are_those_of_the_lines",)


class RepeatsARowPerPage(MemoryDataProvider):
    """The next page begins with the last row of the one before."""

    async def read(self, view, shard, *, batch_bytes):
        last = []
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            yield msgspec.structs.replace(batch, lines=[*last, *batch.lines])
            last = batch.lines[-1:]


class TestRepeatsARowPerPage(OnMemoryProvider):
    subject_class = RepeatsARowPerPage
    caught_by = (
        "test_batches_cover_a_shard_exactly_once",
        "test_a_batch_holds_no_more_bytes_than_asked",
    )


class OverlapsShards(MemoryDataProvider):
    """The end of a range is taken in."""

    async def read(self, view, shard, *, batch_bytes):
        end = None if shard.end is None else shard.end + "!"
        shard = msgspec.structs.replace(shard, end=end)
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            yield batch


class TestOverlapsShards(OnMemoryProvider):
    subject_class = OverlapsShards
    caught_by = (
        "test_shards_cover_a_view_exactly_once",
        "test_shards_can_be_read_at_the_same_time",
        "test_planning_the_past_covers_the_past",
        "test_any_history_agrees_with_the_model",
    )


class BoundsTheLastShard(MemoryDataProvider):
    """The last range ends before the last resource."""

    async def plan(self, view, *, shard_bytes):
        shards = await super().plan(view, shard_bytes=shard_bytes)
        bounds = [
            change.stored.id for kind in view.request.types for change in self._changes(view, kind)
        ]
        return [
            msgspec.structs.replace(shard, end=max(bounds)) if shard.end is None else shard
            for shard in shards
        ]


class TestBoundsTheLastShard(OnMemoryProvider):
    subject_class = BoundsTheLastShard
    caught_by = ("test_shards_cover_a_view_exactly_once",)


class NumbersByType(MemoryDataProvider):
    async def plan(self, view, *, shard_bytes):
        shards = await super().plan(view, shard_bytes=shard_bytes)
        return [msgspec.structs.replace(each, number=each.ordinal - 1) for each in shards]


class TestNumbersByType(OnMemoryProvider):
    subject_class = NumbersByType
    caught_by = ("test_shards_are_numbered_in_the_order_of_the_types",)


class PlansOneShardPerType(MemoryDataProvider):
    async def plan(self, view, *, shard_bytes):
        return await super().plan(view, shard_bytes=1_000_000_000)


class TestPlansOneShardPerType(OnMemoryProvider):
    subject_class = PlansOneShardPerType
    caught_by = ("test_shards_are_sized_by_bytes",)


class PlansByReading(MemoryDataProvider):
    """Planning reads the whole store first."""

    async def plan(self, view, *, shard_bytes):
        changes = [each for kind in view.request.types for each in self._changes(view, kind)]
        copies = [bytes(bytearray(change.stored.content or b"")) for change in changes]
        shards = await super().plan(view, shard_bytes=shard_bytes)
        return shards if copies else []


class TestPlansByReading(OnMemoryProvider):
    subject_class = PlansByReading
    caught_by = ("test_planning_does_not_load_the_contents",)


class PlansEveryType(MemoryDataProvider):
    """There is a shard for a type, whether there is anything of it or not."""

    async def plan(self, view, *, shard_bytes):
        everything = [
            shard
            for place, kind in enumerate(view.request.types)
            for shard in (
                await super().plan(_asking(view, types=(kind,)), shard_bytes=shard_bytes)
                or [_shard(kind)]
            )
        ]
        return [
            msgspec.structs.replace(shard, number=number)
            for number, shard in enumerate(everything)
        ]


def _shard(kind):
    return Shard(number=0, resource_type=kind, ordinal=1)


class TestPlansEveryType(OnMemoryProvider):
    subject_class = PlansEveryType
    caught_by = (
        "test_an_empty_store_has_no_shards",
        "test_a_type_nothing_is_stored_of_has_no_shards",
        "test_an_empty_cohort_has_no_shards",
        "test_nothing_changed_since_has_no_shards",
    )


class TakesNobodyForEverybody(MemoryDataProvider):
    """An empty cohort narrows nothing."""

    def _changes(self, view, resource_type, within=None):
        if view.cohort is not None and not view.cohort.patients:
            view = msgspec.structs.replace(view, cohort=None)
        return super()._changes(view, resource_type, within)


class TestTakesNobodyForEverybody(OnMemoryProvider):
    subject_class = TakesNobodyForEverybody
    caught_by = ("test_an_empty_cohort_has_no_shards",)


class ReadsEverythingAtOnce(MemoryDataProvider):
    async def read(self, view, shard, *, batch_bytes):
        async for batch in super().read(view, shard, batch_bytes=1_000_000_000):
            yield batch


class TestReadsEverythingAtOnce(OnMemoryProvider):
    subject_class = ReadsEverythingAtOnce
    caught_by = (
        "test_a_batch_holds_no_more_bytes_than_asked",
        "test_a_resource_larger_than_a_batch_comes_alone",
    )


class DropsLargeResources(MemoryDataProvider):
    """What does not fit in a batch is left out."""

    async def read(self, view, shard, *, batch_bytes):
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            fitting = [line for line in batch.lines if len(line) <= batch_bytes]
            yield msgspec.structs.replace(batch, lines=fitting)


class TestDropsLargeResources(OnMemoryProvider):
    subject_class = DropsLargeResources
    caught_by = (
        "test_batches_cover_a_shard_exactly_once",
        "test_a_resource_larger_than_a_batch_comes_alone",
    )


class ReadsOnce(MemoryDataProvider):
    """A shard that was read is empty the next time."""

    async def read(self, view, shard, *, batch_bytes):
        seen = self.__dict__.setdefault("seen", set())
        key = (view.transaction_time, view.request.level, shard)
        if key not in seen:
            seen.add(key)
            async for batch in super().read(view, shard, batch_bytes=batch_bytes):
                yield batch


class TestReadsOnce(OnMemoryProvider):
    subject_class = ReadsOnce
    caught_by = (
        "test_reading_a_shard_again_gives_the_same",
        "test_reading_may_stop_early",
    )


class SharesACursor(MemoryDataProvider):
    """Readers that work at the same time take rows from each other."""

    async def read(self, view, shard, *, batch_bytes):
        self.reader = reader = object()
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            if self.reader is not reader:
                return
            yield batch


class TestSharesACursor(OnMemoryProvider):
    subject_class = SharesACursor
    caught_by = (
        "test_shards_can_be_read_at_the_same_time",
        "test_two_cohorts_read_at_once_do_not_mix",
    )


class PrettyPrints(MemoryDataProvider):
    async def read(self, view, shard, *, batch_bytes):
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            lines = [msgspec.json.format(line, indent=0) for line in batch.lines]
            yield msgspec.structs.replace(batch, lines=lines)


class TestPrettyPrints(OnMemoryProvider):
    subject_class = PrettyPrints
    caught_by = ("test_a_line_is_the_resource_with_its_version_and_instant",)


class TakesPatientsForTheSystem(MemoryDataProvider):
    """At patient level everything is shown."""

    def _changes(self, view, resource_type, within=None):
        return super()._changes(_asking(view, level=Level.SYSTEM), resource_type, within)


class TestTakesPatientsForTheSystem(OnMemoryProvider):
    subject_class = TakesPatientsForTheSystem
    caught_by = (
        "test_the_patient_level_shows_the_compartments",
        "test_deletions_are_named_by_level",
    )


class TakesTheSystemForPatients(MemoryDataProvider):
    """At system level only compartments are shown."""

    def _changes(self, view, resource_type, within=None):
        return super()._changes(_asking(view, level=Level.PATIENT), resource_type, within)


class TestTakesTheSystemForPatients(OnMemoryProvider):
    subject_class = TakesTheSystemForPatients
    caught_by = (
        "test_the_system_level_shows_every_resource",
        "test_shards_cover_deletions_exactly_once",
    )


class IgnoresTheCohort(MemoryDataProvider):
    def _changes(self, view, resource_type, within=None):
        everybody = msgspec.structs.replace(view, cohort=None)
        return super()._changes(everybody, resource_type, within)


class TestIgnoresTheCohort(OnMemoryProvider):
    subject_class = IgnoresTheCohort
    caught_by = (
        "test_a_cohort_shows_its_compartments",
        "test_two_cohorts_read_at_once_do_not_mix",
        "test_a_resource_follows_its_references",
        "test_deletions_are_named_by_level",
    )


class CutsTheCohort(MemoryDataProvider):
    """Only so many patients fit into one statement."""

    def _changes(self, view, resource_type, within=None):
        if view.cohort is not None and len(view.cohort.patients) > 32_766:
            cohort = msgspec.structs.replace(view.cohort, patients=frozenset({"p10", "p20"}))
            view = msgspec.structs.replace(view, cohort=cohort)
        return super()._changes(view, resource_type, within)


class TestCutsTheCohort(OnMemoryProvider):
    subject_class = CutsTheCohort
    caught_by = ("test_a_large_cohort_works",)


class KeepsOneCohort(MemoryDataProvider):
    """The cohort of whoever came last is everybody's."""

    async def read(self, view, shard, *, batch_bytes):
        self.cohort = view.cohort
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            yield batch

    def _changes(self, view, resource_type, within=None):
        for change in super()._changes(
            msgspec.structs.replace(view, cohort=None), resource_type, within
        ):
            cohort = view.cohort if within is None else self.cohort
            if cohort is None or not cohort.patients.isdisjoint(change.patients):
                yield change


class TestKeepsOneCohort(OnMemoryProvider):
    subject_class = KeepsOneCohort
    caught_by = ("test_two_cohorts_read_at_once_do_not_mix",)


class ShowsOncePerCompartment(MemoryDataProvider):
    """A join with the compartments gives a row for each."""

    async def read(self, view, shard, *, batch_bytes):
        changes = {
            change.stored.content: change.patients
            for change in self._changes(view, shard.resource_type, shard)
        }
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            lines = list(batch.lines)
            if view.request.level is not Level.SYSTEM:
                lines = [line for line in lines for _ in changes[line]]
            yield msgspec.structs.replace(batch, lines=lines)


class TestShowsOncePerCompartment(OnMemoryProvider):
    subject_class = ShowsOncePerCompartment
    caught_by = (
        "test_the_patient_level_shows_the_compartments",
        "test_a_cohort_shows_its_compartments",
    )


class RemembersFirstCompartments(MemoryDataProvider):
    """A resource stays in the compartments it was first written in."""

    async def write(self, tenant, fhir_version, changes):
        applied = await super().write(tenant, fhir_version, changes)
        for scope in self._scopes.values():
            for resource_id, versions in scope.items():
                scope[resource_id] = [
                    msgspec.structs.replace(each, patients=versions[0].patients)
                    for each in versions
                ]
        return applied


class TestRemembersFirstCompartments(OnMemoryProvider):
    subject_class = RemembersFirstCompartments
    caught_by = ("test_a_resource_follows_its_references",)


class TakesSinceIn(MemoryDataProvider):
    """What changed at `since` itself is shown once more."""

    def _changes(self, view, resource_type, within=None):
        if view.request.since is not None:
            view = _asking(view, since=view.request.since - MICROSECOND)
        return super()._changes(view, resource_type, within)


class TestTakesSinceIn(OnMemoryProvider):
    subject_class = TakesSinceIn
    caught_by = (
        "test_since_is_exclusive",
        "test_deletions_since_are_named",
        "test_any_history_agrees_with_the_model",
    )


class TakesUntilIn(MemoryDataProvider):
    def _changes(self, view, resource_type, within=None):
        if view.request.until is not None:
            view = _asking(view, until=view.request.until + MICROSECOND)
        return super()._changes(view, resource_type, within)


class TestTakesUntilIn(OnMemoryProvider):
    subject_class = TakesUntilIn
    caught_by = (
        "test_until_is_exclusive",
        "test_deletions_at_or_after_until_are_not_named",
    )


class SkipsTheDamaged(MemoryDataProvider):
    async def read(self, view, shard, *, batch_bytes):
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            yield Batch(lines=batch.lines)


class TestSkipsTheDamaged(OnMemoryProvider):
    subject_class = SkipsTheDamaged
    caught_by = (
        "test_a_damaged_resource_is_reported_while_others_flow",
        "test_a_damaged_resource_alone_in_its_shard_is_reported",
    )


class StopsAtTheDamaged(MemoryDataProvider):
    async def read(self, view, shard, *, batch_bytes):
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            yield batch
            if batch.damaged:
                return


class TestStopsAtTheDamaged(OnMemoryProvider):
    subject_class = StopsAtTheDamaged
    caught_by = ("test_a_damaged_resource_is_reported_while_others_flow",)


class TellsOfDamageBesideALine(MemoryDataProvider):
    """A batch without lines is taken for the end."""

    async def read(self, view, shard, *, batch_bytes):
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            if batch.lines:
                yield batch


class TestTellsOfDamageBesideALine(OnMemoryProvider):
    subject_class = TellsOfDamageBesideALine
    caught_by = ("test_a_damaged_resource_alone_in_its_shard_is_reported",)


class IgnoresTheTenant(MemoryDataProvider):
    """All tenants look into one store."""

    def _changes(self, view, resource_type, within=None):
        for tenant in sorted({tenant for tenant, _, _ in self._scopes}):
            yield from super()._changes(_asking(view, tenant=tenant), resource_type, within)


class TestIgnoresTheTenant(OnMemoryProvider):
    subject_class = IgnoresTheTenant
    caught_by = (
        "test_another_tenant_is_never_shown",
        "test_a_cohort_stays_in_its_tenant",
        "test_deletions_stay_in_their_tenant",
    )


class IgnoresTheFHIRVersion(MemoryDataProvider):
    def _changes(self, view, resource_type, within=None):
        for version in FHIRVersion:
            asked = _asking(view, fhir_version=version)
            yield from super()._changes(asked, resource_type, within)


class TestIgnoresTheFHIRVersion(OnMemoryProvider):
    subject_class = IgnoresTheFHIRVersion
    caught_by = ("test_another_fhir_version_is_never_shown",)


class StoresAllTenantsTogether(MemoryDataProvider):
    def _versions(self, scope, resource_id):
        return super()._versions(("clinic", FHIRVersion.R4, scope[2]), resource_id)


class TestStoresAllTenantsTogether(OnMemoryProvider):
    subject_class = StoresAllTenantsTogether
    caught_by = (
        "test_a_write_stays_in_its_tenant_and_version",
        "test_another_tenant_is_never_shown",
    )


class MissesNothing(MemoryDataProvider):
    async def missing(self, tenant, fhir_version, resource_type, ids, *, at=None):
        return set()


class TestMissesNothing(OnMemoryProvider):
    subject_class = MissesNothing
    caught_by = ("test_missing_ids_are_told", "test_missing_ids_are_told_as_of_an_instant")


class MissesAsOfNow(MemoryDataProvider):
    async def missing(self, tenant, fhir_version, resource_type, ids, *, at=None):
        return await super().missing(tenant, fhir_version, resource_type, ids)


class TestMissesAsOfNow(OnMemoryProvider):
    subject_class = MissesAsOfNow
    caught_by = ("test_missing_ids_are_told_as_of_an_instant",)


class ShowsLaterWrites(MemoryDataProvider):
    """An export shows what is current when it reads."""

    def _changes(self, view, resource_type, within=None):
        later = msgspec.structs.replace(view, transaction_time=self._last)
        return super()._changes(later, resource_type, within)


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
            scope = self._scopes[
                view.request.tenant, view.request.fhir_version, shard.resource_type
            ]
            kept = [
                line
                for line, each in zip(batch.lines, head, strict=True)
                if scope[each["id"]][-1].stored.content == line
            ]
            yield msgspec.structs.replace(batch, lines=kept)


class TestLooksWhileReading(OnMemoryProvider):
    subject_class = LooksWhileReading
    caught_by = (
        "test_changes_during_a_read_are_not_shown",
        "test_concurrent_writers_do_not_disturb_a_read",
    )


class LooksForDeletionsWhileReading(MemoryDataProvider):
    async def read_deleted(self, view, shard, *, batch_rows):
        request = view.request
        async for ids in super().read_deleted(view, shard, batch_rows=batch_rows):
            scope = self._scopes[request.tenant, request.fhir_version, shard.resource_type]
            yield [each for each in ids if scope[each][-1].stored.content is None]


class TestLooksForDeletionsWhileReading(OnMemoryProvider):
    subject_class = LooksForDeletionsWhileReading
    caught_by = ("test_deletions_while_reading_are_not_named",)


class StampsBeforeWaiting(MemoryDataProvider):
    """A writer takes its instant, then waits for its turn to commit."""

    async def write(self, tenant, fhir_version, changes):
        clock, stamp = self._clock, max(self._clock(), self._last + MICROSECOND)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        last, self._last = self._last, stamp - MICROSECOND
        self._clock = lambda: stamp
        try:
            return await super().write(tenant, fhir_version, changes)
        finally:
            self._clock = clock
            self._last = max(last, self._last)


class TestStampsBeforeWaiting(OnMemoryProvider):
    subject_class = StampsBeforeWaiting
    caught_by = ("test_a_transaction_time_is_settled_under_concurrent_writers",)


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


class StampsBySeconds(MemoryDataProvider):
    """Two writes within a second carry one instant."""

    async def write(self, tenant, fhir_version, changes):
        clock, stamp = self._clock, max(self._clock().replace(microsecond=0), self._last)
        self._last = stamp - MICROSECOND
        self._clock = lambda: stamp
        try:
            return await super().write(tenant, fhir_version, changes)
        finally:
            self._clock = clock


class TestStampsBySeconds(OnMemoryProvider):
    subject_class = StampsBySeconds
    caught_by = (
        "test_each_write_is_later_than_all_before_it",
        "test_later_writes_are_later_than_the_transaction_time",
        "test_concurrent_writers_lose_nothing",
    )


class GetsTheNewest(MemoryDataProvider):
    async def get(self, tenant, fhir_version, resource_type, resource_id, *, at=None):
        return await super().get(tenant, fhir_version, resource_type, resource_id)


class TestGetsTheNewest(OnMemoryProvider):
    subject_class = GetsTheNewest
    caught_by = ("test_get_shows_the_version_current_at_an_instant",)


class ShowsTheFirstSince(MemoryDataProvider):
    """Of several changes since, the first is shown."""

    def _changes(self, view, resource_type, within=None):
        for change in super()._changes(view, resource_type, within):
            scope = (view.request.tenant, view.request.fhir_version, resource_type)
            versions = self._versions(scope, change.stored.id)
            yield next(each for each in versions if shows(view, each))


class TestShowsTheFirstSince(OnMemoryProvider):
    subject_class = ShowsTheFirstSince
    caught_by = ("test_since_shows_the_version_current_at_the_transaction_time",)


class MakesAVersionOfEverything(MemoryDataProvider):
    async def write(self, tenant, fhir_version, changes):
        self.puts = getattr(self, "puts", 0)
        fresh = []
        for change in changes:
            self.puts += 1
            if isinstance(change, Put):
                resource = msgspec.structs.replace(change.resource, content_hash=self.puts)
                fresh.append(msgspec.structs.replace(change, resource=resource))
            else:
                fresh.append(change)
        return await super().write(tenant, fhir_version, fresh)


class TestMakesAVersionOfEverything(OnMemoryProvider):
    subject_class = MakesAVersionOfEverything
    caught_by = (
        "test_an_unchanged_resource_makes_no_new_version",
        "test_a_write_tells_what_became_of_each_change",
        "test_a_resource_twice_in_one_write_is_applied_twice",
        "test_any_history_agrees_with_the_model",
    )


class MistakesRevivalForNoChange(MemoryDataProvider):
    """A deleted resource that is written again has not changed."""

    async def write(self, tenant, fhir_version, changes):
        applied = []
        for change in changes:
            if isinstance(change, Put):
                scope = (tenant, fhir_version, change.resource.resource_type)
                hashes = [v.content_hash for v in self._versions(scope, change.resource.id)]
                if change.resource.content_hash in hashes:
                    versions = self._versions(scope, change.resource.id)
                    applied.append(_unchanged(versions[-1]))
                    continue
            applied += await super().write(tenant, fhir_version, [change])
        return applied


def _unchanged(version):
    stored = version.stored
    return Applied(
        outcome=Outcome.UNCHANGED, version_id=stored.version_id, last_updated=stored.last_updated
    )


class TestMistakesRevivalForNoChange(OnMemoryProvider):
    subject_class = MistakesRevivalForNoChange
    caught_by = ("test_a_deleted_resource_can_be_written_again",)


class WritesOneByOne(MemoryDataProvider):
    """Each change is a transaction of its own."""

    async def write(self, tenant, fhir_version, changes):
        applied = []
        for change in changes:
            applied += await super().write(tenant, fhir_version, [change])
            await asyncio.sleep(0)
        return applied


class TestWritesOneByOne(OnMemoryProvider):
    subject_class = WritesOneByOne
    caught_by = (
        "test_all_changes_of_a_write_carry_one_instant",
        "test_a_write_is_seen_whole_or_not_at_all",
        "test_a_conflict_changes_nothing",
    )


class ShowsTheFirstOfAnInstant(MemoryDataProvider):
    """Of two versions that carry one instant, the first is shown."""

    def _changes(self, view, resource_type, within=None):
        for change in super()._changes(view, resource_type, within):
            scope = (view.request.tenant, view.request.fhir_version, resource_type)
            stamp = change.stored.last_updated
            versions = self._versions(scope, change.stored.id)
            yield next(each for each in versions if each.stored.last_updated == stamp)


class TestShowsTheFirstOfAnInstant(OnMemoryProvider):
    subject_class = ShowsTheFirstOfAnInstant
    caught_by = (
        "test_a_resource_twice_in_one_write_is_applied_twice",
        "test_a_resource_written_and_deleted_at_once_is_not_shown",
    )


class AppliesOneOfTwo(MemoryDataProvider):
    """Of two changes of one resource, the last one wins."""

    async def write(self, tenant, fhir_version, changes):
        last = {}
        for change in changes:
            about = change.resource if isinstance(change, Put) else change
            last[about.resource_type, about.id] = change
        return await super().write(tenant, fhir_version, [*last.values()])


class TestAppliesOneOfTwo(OnMemoryProvider):
    subject_class = AppliesOneOfTwo
    caught_by = ("test_a_resource_twice_in_one_write_is_applied_twice",)


class IgnoresIfMatch(MemoryDataProvider):
    async def write(self, tenant, fhir_version, changes):
        bold = [msgspec.structs.replace(change, if_match=None) for change in changes]
        return await super().write(tenant, fhir_version, bold)


class TestIgnoresIfMatch(OnMemoryProvider):
    subject_class = IgnoresIfMatch
    caught_by = (
        "test_the_version_named_must_be_current",
        "test_a_version_of_what_is_not_there_cannot_be_named",
        "test_a_conflict_changes_nothing",
        "test_of_two_writers_with_one_version_one_wins",
        "test_of_writers_that_expect_nothing_to_be_there_one_wins",
    )


class ComparesThenWrites(MemoryDataProvider):
    """`if_match` is looked at in one transaction, the change made in another."""

    async def write(self, tenant, fhir_version, changes):
        for change in changes:
            about = change.resource if isinstance(change, Put) else change
            versions = self._versions((tenant, fhir_version, about.resource_type), about.id)
            if change.if_match not in (None, len(versions)):
                raise VersionConflict
        await asyncio.sleep(0)
        bold = [msgspec.structs.replace(change, if_match=None) for change in changes]
        return await super().write(tenant, fhir_version, bold)


class TestComparesThenWrites(OnMemoryProvider):
    subject_class = ComparesThenWrites
    caught_by = (
        "test_of_two_writers_with_one_version_one_wins",
        "test_of_writers_that_expect_nothing_to_be_there_one_wins",
    )


class LosesConcurrentWrites(MemoryDataProvider):
    """Reads, gives others their turn, then writes what it has read."""

    async def write(self, tenant, fhir_version, changes):
        before = {scope: dict(kept) for scope, kept in self._scopes.items()}
        await asyncio.sleep(0)
        self._scopes.clear()
        self._scopes.update(before)
        return await super().write(tenant, fhir_version, changes)


class TestLosesConcurrentWrites(OnMemoryProvider):
    subject_class = LosesConcurrentWrites
    caught_by = ("test_concurrent_writers_lose_nothing",)


class WritesOnlyAThousand(MemoryDataProvider):
    async def write(self, tenant, fhir_version, changes):
        return await super().write(tenant, fhir_version, changes[:1000])


class TestWritesOnlyAThousand(OnMemoryProvider):
    subject_class = WritesOnlyAThousand
    caught_by = ("test_many_changes_fit_in_one_write",)


class NeedsSomethingToWrite(MemoryDataProvider):
    async def write(self, tenant, fhir_version, changes):
        _ = changes[0]
        return await super().write(tenant, fhir_version, changes)


class TestNeedsSomethingToWrite(OnMemoryProvider):
    subject_class = NeedsSomethingToWrite
    caught_by = ("test_writing_nothing_is_fine",)


class AcknowledgesOnly(MemoryDataProvider):
    """Says it has written, and has not."""

    async def write(self, tenant, fhir_version, changes):
        kept = {scope: dict(versions) for scope, versions in self._scopes.items()}
        applied = await super().write(tenant, fhir_version, changes)
        if any(each.outcome is Outcome.UPDATED for each in applied):
            self._scopes.clear()
            self._scopes.update(kept)
        return applied


class TestAcknowledgesOnly(OnMemoryProvider):
    subject_class = AcknowledgesOnly
    caught_by = ("test_what_is_written_is_what_is_stored",)


class DeletesTwice(MemoryDataProvider):
    """Deleting what is deleted makes another version."""

    async def write(self, tenant, fhir_version, changes):
        applied = await super().write(tenant, fhir_version, changes)
        for change, result in zip(changes, applied, strict=True):
            if result.outcome is Outcome.ABSENT and result.version_id:
                scope = self._scopes[tenant, fhir_version, change.resource_type]
                last = scope[change.id][-1]
                stored = msgspec.structs.replace(last.stored, version_id=result.version_id + 1)
                scope[change.id].append(msgspec.structs.replace(last, stored=stored))
        return applied


class TestDeletesTwice(OnMemoryProvider):
    subject_class = DeletesTwice
    caught_by = ("test_a_resource_cannot_be_deleted_twice",)


class ForgetsContents(MemoryDataProvider):
    """Earlier versions lose their content."""

    async def get_version(self, *place):
        version = await super().get_version(*place)
        return None if version is None else msgspec.structs.replace(version, content=None)


class TestForgetsContents(OnMemoryProvider):
    subject_class = ForgetsContents
    caught_by = ("test_versions_can_be_read", "test_the_history_is_paged_from_the_newest")


class TellsTheHistoryOfOthers(MemoryDataProvider):
    async def history(self, tenant, *rest, count, before=None):
        return await super().history("hospital", *rest, count=count, before=before)


class TestTellsTheHistoryOfOthers(OnMemoryProvider):
    subject_class = TellsTheHistoryOfOthers
    caught_by = (
        "test_the_history_is_paged_from_the_newest",
        "test_what_was_never_there_has_no_history",
    )


class FindsOldVersions(MemoryDataProvider):
    async def search(self, tenant, fhir_version, query, *, count, after=None):
        page = await super().search(tenant, fhir_version, query, count=count, after=after)
        scope = self._scopes[tenant, fhir_version, query.filter.resource_type]
        gone = [v[0].stored for v in scope.values() if v[-1].stored.content is None]
        return msgspec.structs.replace(page, resources=[*page.resources, *gone])


class TestFindsOldVersions(OnMemoryProvider):
    subject_class = FindsOldVersions
    caught_by = ("test_a_search_leaves_out_deleted_and_earlier_versions",)


class SearchesAllTenants(MemoryDataProvider):
    async def search(self, tenant, fhir_version, query, *, count, after=None):
        found = []
        for place, version, kind in list(self._scopes):
            if kind == query.filter.resource_type:
                page = await super().search(place, version, query, count=100)
                found += page.resources
        return Page(resources=found, next=None)


class TestSearchesAllTenants(OnMemoryProvider):
    subject_class = SearchesAllTenants
    caught_by = ("test_a_search_gives_the_current_resources_of_a_type",)


class ForgetsTheContentOfMatches(MemoryDataProvider):
    async def search(self, tenant, fhir_version, query, *, count, after=None):
        page = await super().search(tenant, fhir_version, query, count=count, after=after)
        bare = [msgspec.structs.replace(each, content=b"{}") for each in page.resources]
        return msgspec.structs.replace(page, resources=bare)


class TestForgetsTheContentOfMatches(OnMemoryProvider):
    subject_class = ForgetsTheContentOfMatches
    caught_by = ("test_a_search_gives_stored_versions",)


class PagesByOffset(MemoryDataProvider):
    """The next page begins at a number, whatever came or went before it."""

    async def search(self, tenant, fhir_version, query, *, count, after=None):
        page = await super().search(tenant, fhir_version, query, count=100_000)
        start = int(after or 0)
        following = str(start + count) if len(page.resources) > start + count else None
        return Page(resources=page.resources[start : start + count], next=following)


class TestPagesByOffset(OnMemoryProvider):
    subject_class = PagesByOffset
    caught_by = (
        "test_paging_goes_on_while_resources_come_and_go",
        "test_a_page_nobody_gave_is_refused",
    )


class SearchesForAnyId(MemoryDataProvider):
    """Of several `_id` parameters, one has to fit."""

    async def search(self, tenant, fhir_version, query, *, count, after=None):
        prefilter = query.filter.prefilter()
        if isinstance(prefilter, AllOf) and all(isinstance(p, AnyId) for p in prefilter.parts):
            ids = {each for part in prefilter.parts for each in part.ids}
            query = _answering(query, lambda resource: resource["id"] in ids)
        return await super().search(tenant, fhir_version, query, count=count, after=after)


def _answering(query, test):
    """The query as a provider sees it that tests something else."""
    condition = msgspec.structs.replace(query.filter.condition, test=test)
    compiled = msgspec.structs.replace(query.filter, condition=condition)
    return msgspec.structs.replace(query, filter=compiled)


class TestSearchesForAnyId(OnMemoryProvider):
    subject_class = SearchesForAnyId
    caught_by = ("test_ids_narrow_a_search",)


class ExcludesBounds(MemoryDataProvider):
    async def search(self, tenant, fhir_version, query, *, count, after=None):
        page = await super().search(tenant, fhir_version, query, count=count, after=after)
        bounds = {*_bounds(query.filter.prefilter())}
        inside = [e for e in page.resources if e.last_updated not in bounds]
        return msgspec.structs.replace(page, resources=inside)


def _bounds(prefilter):
    for part in prefilter.parts if isinstance(prefilter, AllOf) else (prefilter,):
        if isinstance(part, Updated):
            for bound in (part.since, part.until):
                if bound is not None:
                    yield datetime(1970, 1, 1, tzinfo=UTC) + bound * MICROSECOND


class TestExcludesBounds(OnMemoryProvider):
    subject_class = ExcludesBounds
    caught_by = ("test_bounds_narrow_a_search_and_are_inclusive",)


class SearchesWithTheIndexAlone(MemoryDataProvider):
    """What no index can tell is taken to be so."""

    async def search(self, tenant, fhir_version, query, *, count, after=None):
        if query.filter.prefilter() is None:
            query = _answering(query, lambda _: True)
        return await super().search(tenant, fhir_version, query, count=count, after=after)


class TestSearchesWithTheIndexAlone(OnMemoryProvider):
    subject_class = SearchesWithTheIndexAlone
    caught_by = (
        "test_a_filter_is_answered_exactly_in_any_order",
        "test_a_search_finds_what_the_evaluator_finds",
        "test_the_total_is_given_when_it_is_asked_for",
    )


class SortsById(MemoryDataProvider):
    """Whatever order is asked for."""

    async def search(self, tenant, fhir_version, query, *, count, after=None):
        query = msgspec.structs.replace(query, order=Order.ID)
        return await super().search(tenant, fhir_version, query, count=count, after=after)


class TestSortsById(OnMemoryProvider):
    subject_class = SortsById
    caught_by = (
        "test_matches_come_in_the_order_asked_for",
        "test_a_page_of_another_order_is_refused",
    )


class CountsThePage(MemoryDataProvider):
    async def search(self, tenant, fhir_version, query, *, count, after=None):
        page = await super().search(tenant, fhir_version, query, count=count, after=after)
        return msgspec.structs.replace(page, total=len(page.resources))


class TestCountsThePage(OnMemoryProvider):
    subject_class = CountsThePage
    caught_by = ("test_the_total_is_given_when_it_is_asked_for",)


class FindsFewerCandidates(MemoryDataProvider):
    """Of several alternatives the index is asked for the first."""

    async def read_candidates(self, view, shard, prefilter, *, batch_bytes):
        if isinstance(prefilter, AnyOf):
            prefilter = prefilter.parts[0]
        if isinstance(prefilter, AnyTerm):
            prefilter = AnyTerm(frozenset(sorted(prefilter.terms)[:1]))
        async for batch in super().read_candidates(
            view, shard, prefilter, batch_bytes=batch_bytes
        ):
            yield batch


class TestFindsFewerCandidates(OnMemoryProvider):
    subject_class = FindsFewerCandidates
    caught_by = ("test_candidates_hold_every_match",)


class FindsCandidatesOfAllShards(MemoryDataProvider):
    async def read_candidates(self, view, shard, prefilter, *, batch_bytes):
        shard = msgspec.structs.replace(shard, start=None, end=None)
        async for batch in super().read_candidates(
            view, shard, prefilter, batch_bytes=batch_bytes
        ):
            yield batch


class TestFindsCandidatesOfAllShards(OnMemoryProvider):
    subject_class = FindsCandidatesOfAllShards
    caught_by = (
        "test_candidates_are_what_a_shard_shows_in_its_order",
        "test_candidates_hold_every_match",
    )


class GivesAllCandidatesAtOnce(MemoryDataProvider):
    async def read_candidates(self, view, shard, prefilter, *, batch_bytes):
        async for batch in super().read_candidates(view, shard, prefilter, batch_bytes=1 << 40):
            yield batch


class TestGivesAllCandidatesAtOnce(OnMemoryProvider):
    subject_class = GivesAllCandidatesAtOnce
    caught_by = ("test_batches_of_candidates_hold_no_more_bytes_than_asked",)


class IndexesTheCurrentVersion(MemoryDataProvider):
    """What was superseded or deleted after the transaction time is no longer in the index."""

    async def read_candidates(self, view, shard, prefilter, *, batch_bytes):
        now = msgspec.structs.replace(view, transaction_time=self._last)
        shown = {
            line async for batch in self.read(now, shard, batch_bytes=1) for line in batch.lines
        }
        async for batch in super().read_candidates(
            view, shard, prefilter, batch_bytes=batch_bytes
        ):
            current = [line for line in batch.lines if line in shown]
            yield msgspec.structs.replace(batch, lines=current)


class TestIndexesTheCurrentVersion(OnMemoryProvider):
    subject_class = IndexesTheCurrentVersion
    caught_by = ("test_candidates_are_those_of_the_transaction_time",)


class FindsCandidatesOfAnyTime(MemoryDataProvider):
    async def read_candidates(self, view, shard, prefilter, *, batch_bytes):
        view = _asking(view, since=None, until=None)
        async for batch in super().read_candidates(
            view, shard, prefilter, batch_bytes=batch_bytes
        ):
            yield batch


class TestFindsCandidatesOfAnyTime(OnMemoryProvider):
    subject_class = FindsCandidatesOfAnyTime
    caught_by = ("test_candidates_follow_the_period_of_the_view",)


class FindsCandidatesOfAnybody(MemoryDataProvider):
    async def read_candidates(self, view, shard, prefilter, *, batch_bytes):
        view = msgspec.structs.replace(_asking(view, level=Level.SYSTEM), cohort=None)
        async for batch in super().read_candidates(
            view, shard, prefilter, batch_bytes=batch_bytes
        ):
            yield batch


class TestFindsCandidatesOfAnybody(OnMemoryProvider):
    subject_class = FindsCandidatesOfAnybody
    caught_by = ("test_candidates_stay_in_level_and_cohort",)


class FindsNoDamagedCandidates(MemoryDataProvider):
    async def read_candidates(self, view, shard, prefilter, *, batch_bytes):
        async for batch in super().read_candidates(
            view, shard, prefilter, batch_bytes=batch_bytes
        ):
            yield msgspec.structs.replace(batch, damaged=[])


class TestFindsNoDamagedCandidates(OnMemoryProvider):
    subject_class = FindsNoDamagedCandidates
    caught_by = ("test_a_damaged_candidate_is_reported",)


class FindsCandidatesOfAllTenants(MemoryDataProvider):
    async def read_candidates(self, view, shard, prefilter, *, batch_bytes):
        for tenant in (corpus.TENANT, corpus.OTHER_TENANT):
            async for batch in super().read_candidates(
                _asking(view, tenant=tenant), shard, prefilter, batch_bytes=batch_bytes
            ):
                yield batch


class TestFindsCandidatesOfAllTenants(OnMemoryProvider):
    subject_class = FindsCandidatesOfAllTenants
    caught_by = ("test_candidates_stay_in_tenant_and_version",)


class LosesAMatchPerPage(MemoryDataProvider):
    async def search(self, tenant, fhir_version, query, *, count, after=None):
        page = await super().search(tenant, fhir_version, query, count=count, after=after)
        start = 0 if after is None else 1
        return msgspec.structs.replace(page, resources=page.resources[start:])


class TestLosesAMatchPerPage(OnMemoryProvider):
    subject_class = LosesAMatchPerPage
    caught_by = ("test_pages_cover_the_matches_exactly_once",)


class LosesTombstones(MemoryDataProvider):
    """Deleted resources are gone without a trace."""

    async def read_deleted(self, view, shard, *, batch_rows):
        for nothing in ():
            yield nothing


class TestLosesTombstones(OnMemoryProvider):
    subject_class = LosesTombstones
    caught_by = (
        "test_deletions_since_are_named",
        "test_deletions_are_named_by_level",
        "test_shards_cover_deletions_exactly_once",
        "test_chained_exports_rebuild_the_final_state",
        "test_any_history_agrees_with_the_model",
    )


class PlansNoDeletions(MemoryDataProvider):
    """A type of which only deletions are left has no shard."""

    def _plannable(self, view, resource_type):
        return (c for c in super()._plannable(view, resource_type) if c.content is not None)


class TestPlansNoDeletions(OnMemoryProvider):
    subject_class = PlansNoDeletions
    caught_by = (
        "test_deletions_since_are_named",
        "test_shards_cover_deletions_exactly_once",
    )


class NamesDeletionsWithoutSince(MemoryDataProvider):
    async def read_deleted(self, view, shard, *, batch_rows):
        changes = self._changes(view, shard.resource_type, shard)
        ids = [change.stored.id for change in changes if change.stored.content is None]
        for start in range(0, len(ids), batch_rows):
            yield ids[start : start + batch_rows]


class TestNamesDeletionsWithoutSince(OnMemoryProvider):
    subject_class = NamesDeletionsWithoutSince
    caught_by = ("test_without_since_nothing_is_named",)


class NamesWhatCameBack(MemoryDataProvider):
    """Whatever was deleted since is named, though it was written again."""

    async def read_deleted(self, view, shard, *, batch_rows):
        request = view.request
        scope = self._scopes[request.tenant, request.fhir_version, shard.resource_type]
        for resource_id, versions in scope.items():
            deletions = [v for v in versions if v.stored.content is None and shows(view, v)]
            past = current_version(deletions, view.transaction_time)
            if request.since is not None and past is not None:
                yield [resource_id]


class TestNamesWhatCameBack(OnMemoryProvider):
    subject_class = NamesWhatCameBack
    caught_by = ("test_what_was_written_again_is_not_named",)


class NamesAllDeletionsAtOnce(MemoryDataProvider):
    async def read_deleted(self, view, shard, *, batch_rows):
        async for ids in super().read_deleted(view, shard, batch_rows=1_000_000):
            yield ids


class TestNamesAllDeletionsAtOnce(OnMemoryProvider):
    subject_class = NamesAllDeletionsAtOnce
    caught_by = ("test_deletions_come_in_rows_of_limited_number",)


class TestForgetsOnRestart(OnMemoryProvider):
    persistent = True
    caught_by = (
        "test_candidates_outlive_a_restart",
        "test_stamps_do_not_go_back_across_a_restart",
        "test_two_providers_on_one_backing_share_a_clock",
        "test_writers_of_another_process_do_not_disturb_a_read",
    )


class LooksUpWithoutTheCohort(MemoryDataProvider):
    async def among(self, view, resource_type, ids):
        everybody = msgspec.structs.replace(view, cohort=None)
        return await super().among(everybody, resource_type, ids)


class TestLooksUpWithoutTheCohort(OnMemoryProvider):
    subject_class = LooksUpWithoutTheCohort
    caught_by = ("test_ids_are_told_apart_by_who_they_are_about",)


class LooksUpWhatIsCurrent(MemoryDataProvider):
    async def among(self, view, resource_type, ids):
        now = msgspec.structs.replace(view, transaction_time=await self.transaction_time())
        return await super().among(now, resource_type, ids)


class TestLooksUpWhatIsCurrent(OnMemoryProvider):
    subject_class = LooksUpWhatIsCurrent
    caught_by = ("test_ids_are_told_apart_by_when_they_changed",)


class FetchesWhatIsCurrent(MemoryDataProvider):
    async def fetch(self, tenant, fhir_version, resource_type, ids, *, at):
        now = await self.transaction_time()
        return await super().fetch(tenant, fhir_version, resource_type, ids, at=now)


class TestFetchesWhatIsCurrent(OnMemoryProvider):
    subject_class = FetchesWhatIsCurrent
    caught_by = ("test_resources_are_fetched_as_they_were",)


class FetchesFromAllTenants(MemoryDataProvider):
    async def fetch(self, tenant, fhir_version, resource_type, ids, *, at):
        found = Batch()
        for each in {scope[0] for scope in self._scopes}:
            batch = await super().fetch(each, fhir_version, resource_type, ids, at=at)
            found = batch if batch.lines else found
        return found


class TestFetchesFromAllTenants(OnMemoryProvider):
    subject_class = FetchesFromAllTenants
    caught_by = ("test_ids_of_another_tenant_are_not_known",)


class LooksUpSomeIdsOnly(MemoryDataProvider):
    async def among(self, view, resource_type, ids):
        return await super().among(view, resource_type, list(ids)[:500])


class TestLooksUpSomeIdsOnly(OnMemoryProvider):
    subject_class = LooksUpSomeIdsOnly
    caught_by = ("test_many_ids_are_asked_for_in_one_go",)
