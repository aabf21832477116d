"""P4: levels, cohorts and compartments."""

import msgspec

from helios_core.memory.data_provider import MemoryDataProvider
from helios_core.model.exports import Level
from tests.testing.broken_data_providers.asking import asking
from tests.testing.on_memory import OnMemoryProvider


class TakesPatientsForTheSystem(MemoryDataProvider):
    """At patient level everything is shown."""

    def _changes(self, view, resource_type, shard=None):
        return super()._changes(asking(view, level=Level.SYSTEM), resource_type, shard)


class TestTakesPatientsForTheSystem(OnMemoryProvider):
    subject_class = TakesPatientsForTheSystem
    caught_by = (
        "test_the_patient_level_shows_the_compartments",
        "test_deletions_are_named_by_level",
    )


class TakesTheSystemForPatients(MemoryDataProvider):
    """At system level only compartments are shown."""

    def _changes(self, view, resource_type, shard=None):
        return super()._changes(asking(view, level=Level.PATIENT), resource_type, shard)


class TestTakesTheSystemForPatients(OnMemoryProvider):
    subject_class = TakesTheSystemForPatients
    caught_by = (
        "test_the_system_level_shows_every_resource",
        "test_shards_cover_deletions_exactly_once",
    )


class TakesNobodyForEverybody(MemoryDataProvider):
    """An empty cohort narrows nothing."""

    def _changes(self, view, resource_type, shard=None):
        if view.cohort is not None and not view.cohort.patients:
            view = msgspec.structs.replace(view, cohort=None)
        return super()._changes(view, resource_type, shard)


class TestTakesNobodyForEverybody(OnMemoryProvider):
    subject_class = TakesNobodyForEverybody
    caught_by = ("test_an_empty_cohort_has_no_shards",)


class IgnoresTheCohort(MemoryDataProvider):
    def _changes(self, view, resource_type, shard=None):
        everybody = msgspec.structs.replace(view, cohort=None)
        return super()._changes(everybody, resource_type, shard)


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

    def _changes(self, view, resource_type, shard=None):
        if view.cohort is not None and len(view.cohort.patients) > 32_766:
            cohort = msgspec.structs.replace(view.cohort, patients=frozenset({"p10", "p20"}))
            view = msgspec.structs.replace(view, cohort=cohort)
        return super()._changes(view, resource_type, shard)


class TestCutsTheCohort(OnMemoryProvider):
    subject_class = CutsTheCohort
    caught_by = ("test_a_large_cohort_works",)


class KeepsOneCohort(MemoryDataProvider):
    """The cohort of whoever came last is everybody's."""

    def read(self, view, shard, *, batch_bytes):
        self.cohort = view.cohort
        return super().read(view, shard, batch_bytes=batch_bytes)

    def _changes(self, view, resource_type, shard=None):
        for change in super()._changes(
            msgspec.structs.replace(view, cohort=None), resource_type, shard
        ):
            cohort = view.cohort if shard is None else self.cohort
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
        for collection in self._collections.values():
            for resource_id, versions in collection.items():
                collection[resource_id] = [
                    msgspec.structs.replace(each, patients=versions[0].patients)
                    for each in versions
                ]
        return applied


class TestRemembersFirstCompartments(OnMemoryProvider):
    subject_class = RemembersFirstCompartments
    caught_by = ("test_a_resource_follows_its_references",)
