"""Providers over tables, held to what their holdings declare."""

from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from helios_core import BackendError, ResourceQuery
from tests.testing.broken_data_providers.asking import asking
from tests.testing.clinic import (
    PATIENTS,
    VISITS,
    WARDS,
    AppendedClinic,
    AppendedClinicSuite,
    Clinic,
    ClinicSuite,
    to_encounter,
    to_patient,
)


class LosesTheFirstRowOfAPage(Clinic):
    """The next page begins behind the row it should begin with."""

    async def rows(self, query, parameters):
        rows = await super().rows(query, parameters)
        return rows[1:] if "after" in parameters else rows


class TestLosesTheFirstRowOfAPage(ClinicSuite):
    subject_class = LosesTheFirstRowOfAPage
    caught_by = (
        "test_shards_cover_a_view_exactly_once",
        "test_batches_cover_a_shard_exactly_once",
        "test_shards_can_be_read_at_the_same_time",
    )


class RepeatsTheLastRowOfAPage(Clinic):
    """The next page begins with the row that the one before ended with."""

    async def read(self, view, shard, *, batch_bytes):
        last = []
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            yield replace(batch, lines=[*last, *batch.lines])
            last = batch.lines[-1:]


class TestRepeatsTheLastRowOfAPage(ClinicSuite):
    subject_class = RepeatsTheLastRowOfAPage
    caught_by = ("test_batches_cover_a_shard_exactly_once", "test_a_large_cohort_works")


class LosesTheLastRowOfAShard(Clinic):
    """A shard ends at the last key that it should include."""

    async def plan(self, view, *, shard_bytes):
        shards = await super().plan(view, shard_bytes=shard_bytes)
        # A mixture has a key of a type at every third multiple of 7919.
        ends = [None if shard.end is None else str(int(shard.end) - 3 * 7919) for shard in shards]
        return [replace(shard, end=end) for shard, end in zip(shards, ends, strict=True)]


class TestLosesTheLastRowOfAShard(ClinicSuite):
    subject_class = LosesTheLastRowOfAShard
    caught_by = ("test_shards_cover_a_view_exactly_once",)


class ShowsWhatComesLater(AppendedClinic):
    """The transaction time bounds nothing."""

    def to_database(self, instant):
        year = timedelta(days=365)
        return super().to_database(instant + year if instant.year == 2026 else instant)


class TestShowsWhatComesLater(AppendedClinicSuite):
    subject_class = ShowsWhatComesLater
    caught_by = (
        "test_an_earlier_state_is_shown_or_refused",
        "test_what_is_stored_during_a_read_is_not_shown",
        "test_ids_are_told_apart_by_when_they_changed",
        "test_resources_are_fetched_as_they_were",
    )


class ShowsWhatIsLeft(Clinic):
    """Rows are replaced, and nobody is told that those of the transaction time are gone."""

    async def _require_present(self, at):
        pass


class TestShowsWhatIsLeft(ClinicSuite):
    subject_class = ShowsWhatIsLeft
    caught_by = (
        "test_an_earlier_state_is_shown_or_refused",
        "test_what_is_stored_during_a_read_is_not_shown",
    )


class LooksOnlyAtTheStart(Clinic):
    """What is replaced while a shard is read goes unnoticed."""

    async def read(self, view, shard, *, batch_bytes):
        await super()._require_present(view.transaction_time)
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            yield batch

    async def _require_present(self, at):
        pass


class TestLooksOnlyAtTheStart(ClinicSuite):
    subject_class = LooksOnlyAtTheStart
    caught_by = ("test_what_is_stored_during_a_read_is_not_shown",)


class UsesTheClock(Clinic):
    """Whatever is loaded now carries an earlier instant."""

    async def transaction_time(self):
        return datetime.now(UTC) + timedelta(days=3650)


class TestUsesTheClock(ClinicSuite):
    subject_class = UsesTheClock
    caught_by = (
        "test_what_is_stored_before_is_covered_and_what_comes_later_is_later",
        "test_a_transaction_time_is_settled_while_something_is_being_stored",
    )


class CountsWhatIsNotCommitted(AppendedClinic):
    """The load that is running settles the instant it carries."""

    started = 0

    async def transaction_time(self):
        return await super().transaction_time() + timedelta(seconds=self.started)


class TestCountsWhatIsNotCommitted(AppendedClinicSuite):
    subject_class = CountsWhatIsNotCommitted
    caught_by = ("test_a_transaction_time_is_settled_while_something_is_being_stored",)

    def inserting(self, provider, samples, **options):
        provider.started = len(samples) > 1
        return super().inserting(provider, samples, **options)


class SettlesTooEarly(AppendedClinic):
    async def transaction_time(self):
        return await super().transaction_time() - timedelta(hours=1)


class TestSettlesTooEarly(AppendedClinicSuite):
    subject_class = SettlesTooEarly
    caught_by = (
        "test_what_is_stored_before_is_covered_and_what_comes_later_is_later",
        "test_the_system_level_shows_every_resource",
    )


class ShowsAnyTenant(Clinic):
    def _query(self, key):
        return super()._query(replace(key, tenant="ours"))


class TestShowsAnyTenant(ClinicSuite):
    subject_class = ShowsAnyTenant
    caught_by = (
        "test_another_tenant_is_never_shown",
        "test_a_cohort_stays_in_its_tenant",
        "test_ids_of_another_tenant_are_not_known",
    )


class ShowsAnyVersion(Clinic):
    def _query(self, key):
        return super()._query(replace(key, fhir_version=self._fhir_version))


class TestShowsAnyVersion(ClinicSuite):
    subject_class = ShowsAnyVersion
    caught_by = (
        "test_another_fhir_version_is_never_shown",
        "test_ids_of_another_tenant_are_not_known",
    )


class IncludesSince(Clinic):
    async def rows(self, query, parameters):
        return await super().rows(query.replace("> :since", ">= :since"), parameters)


class TestIncludesSince(ClinicSuite):
    subject_class = IncludesSince
    caught_by = (
        "test_since_is_exclusive",
        "test_nothing_changed_since_has_no_shards",
        "test_ids_are_told_apart_by_when_they_changed",
    )


class IncludesUntil(Clinic):
    async def rows(self, query, parameters):
        return await super().rows(query.replace("< :until", "<= :until"), parameters)


class TestIncludesUntil(ClinicSuite):
    subject_class = IncludesUntil
    caught_by = ("test_until_is_exclusive",)


class RoundsInstants(Clinic):
    """Instants are compared by the minute."""

    def to_database(self, instant):
        return super().to_database(instant.replace(second=0))


class TestRoundsInstants(ClinicSuite):
    subject_class = RoundsInstants
    caught_by = ("test_since_is_exclusive", "test_until_is_exclusive")


class ReckonsWithBounds(Clinic):
    """The day before the first one is no day."""

    def to_database(self, instant):
        return super().to_database(instant - timedelta(days=1) + timedelta(days=1))


class TestReckonsWithBounds(ClinicSuite):
    subject_class = ReckonsWithBounds
    caught_by = ("test_a_view_may_be_bounded_by_the_ends_of_time",)


def with_queries(*queries):
    return type("Changed", (Clinic,), {"queries": queries})


class TestStampsATypeOnce(ClinicSuite):
    """The column of changes is the one of another table."""

    select = "SELECT id, patient_id, reason, 1767225600000000 AS changed_at FROM visits"
    subject_class = with_queries(PATIENTS, WARDS, replace(VISITS, select=select))
    caught_by = (
        "test_a_transaction_time_is_settled_while_something_is_being_stored",
        "test_ids_are_told_apart_by_when_they_changed",
    )


class TestTakesTheVisitForThePatient(ClinicSuite):
    subject_class = with_queries(PATIENTS, WARDS, replace(VISITS, patient="id"))
    caught_by = (
        "test_a_cohort_shows_its_compartments",
        "test_ids_are_told_apart_by_who_they_are_about",
    )


class TestForgetsWards(ClinicSuite):
    subject_class = with_queries(PATIENTS, VISITS)
    caught_by = (
        "test_shards_cover_a_view_exactly_once",
        "test_the_holdings_name_every_type_of_the_provider",
    )


class TestHoldsWhatIsNotDeclared(ClinicSuite):
    subject_class = with_queries(PATIENTS, VISITS, WARDS, replace(WARDS, resource_type="Location"))
    caught_by = ("test_the_holdings_name_every_type_of_the_provider",)


class TestInventsElements(ClinicSuite):
    subject_class = with_queries(
        replace(PATIENTS, resource=lambda row: to_patient(row) | {"firstname": "x"}), VISITS, WARDS
    )
    caught_by = ("test_lines_have_the_elements_of_their_type",)


class TestLeavesOutWhatIsRequired(ClinicSuite):
    subject_class = with_queries(
        PATIENTS, WARDS, replace(VISITS, resource=lambda row: to_encounter(row) | {"status": None})
    )
    caught_by = ("test_lines_have_the_elements_of_their_type",)


class TestDropsAList(ClinicSuite):
    subject_class = with_queries(
        replace(PATIENTS, resource=lambda row: {"name": {"text": row["name"]}}), VISITS, WARDS
    )
    caught_by = ("test_lines_have_the_elements_of_their_type",)


class TestCutsTexts(ClinicSuite):
    subject_class = with_queries(
        replace(PATIENTS, resource=lambda row: {"name": [{"text": row["name"][:8]}]}),
        VISITS,
        WARDS,
    )
    caught_by = ("test_a_line_is_the_resource_with_its_version_and_instant",)


class FailsOnADamagedRow(Clinic):
    async def _page(self, query, rows, count):
        page = await super()._page(query, rows, count)
        if any(row.damaged for row in page):
            raise BackendError("a row cannot be mapped")
        return page


class TestFailsOnADamagedRow(ClinicSuite):
    subject_class = FailsOnADamagedRow
    caught_by = (
        "test_a_damaged_resource_is_reported_while_others_flow",
        "test_a_damaged_resource_alone_in_its_shard_is_reported",
        "test_a_damaged_resource_is_reported_by_its_id",
    )


class SkipsADamagedRow(Clinic):
    async def _page(self, query, rows, count):
        return [row for row in await super()._page(query, rows, count) if not row.damaged]


class TestSkipsADamagedRow(ClinicSuite):
    subject_class = SkipsADamagedRow
    caught_by = (
        "test_a_damaged_resource_is_reported_while_others_flow",
        "test_a_damaged_resource_alone_in_its_shard_is_reported",
        "test_a_damaged_resource_is_reported_by_its_id",
    )


class QuotesADamagedRow(Clinic):
    async def _page(self, query, rows, count):
        page = await super()._page(query, rows, count)
        return [
            replace(row, damaged=row.damaged and replace(row.damaged, reason="it says ?secret"))
            for row in page
        ]


class TestQuotesADamagedRow(ClinicSuite):
    subject_class = QuotesADamagedRow
    caught_by = (
        "test_a_damaged_resource_is_reported_while_others_flow",
        "test_a_damaged_resource_is_reported_by_its_id",
    )


class IgnoresTheCohort(Clinic):
    async def plan(self, view, *, shard_bytes):
        return await super().plan(replace(view, cohort=None), shard_bytes=shard_bytes)

    async def read(self, view, shard, *, batch_bytes):
        everybody = replace(view, cohort=None)
        async for batch in super().read(everybody, shard, batch_bytes=batch_bytes):
            yield batch


class TestIgnoresTheCohort(ClinicSuite):
    subject_class = IgnoresTheCohort
    caught_by = (
        "test_an_empty_cohort_has_no_shards",
        "test_a_cohort_shows_its_compartments",
        "test_two_cohorts_read_at_once_do_not_mix",
    )


class CutsTheCohort(Clinic):
    """Only so many patients fit into one query."""

    async def _patients(self, cohort):
        return (await super()._patients(cohort))[:500]


class TestCutsTheCohort(ClinicSuite):
    subject_class = CutsTheCohort
    caught_by = ("test_a_large_cohort_works",)


class KeepsOneCohort(Clinic):
    """The cohort of whoever came first is everybody's."""

    async def _patients(self, cohort):
        if not self._cohort[1]:
            await super()._patients(cohort)
        return self._cohort[1]


class TestKeepsOneCohort(ClinicSuite):
    subject_class = KeepsOneCohort
    caught_by = (
        "test_two_cohorts_read_at_once_do_not_mix",
        "test_a_cohort_shows_its_compartments",
    )


class SizesShardsByRows(Clinic):
    async def _line_bytes(self, view, query):
        line_bytes = await super()._line_bytes(view, query)
        return None if line_bytes is None else 10


class TestSizesShardsByRows(ClinicSuite):
    subject_class = SizesShardsByRows
    caught_by = ("test_shards_are_sized_by_bytes",)


class PlansWithAllRows(Clinic):
    async def plan(self, view, *, shard_bytes):
        await super().rows("SELECT * FROM patients", {})
        return await super().plan(view, shard_bytes=shard_bytes)


class TestPlansWithAllRows(ClinicSuite):
    subject_class = PlansWithAllRows
    caught_by = ("test_planning_does_not_load_the_contents",)


class FetchesInTheOrderOfKeys(Clinic):
    async def fetch(self, key, ids, *, at):
        return await super().fetch(key, sorted(ids), at=at)


class TestFetchesInTheOrderOfKeys(ClinicSuite):
    subject_class = FetchesInTheOrderOfKeys
    caught_by = ("test_many_ids_are_looked_up_in_one_go",)


class LooksUpSome(Clinic):
    async def _rows_by_id(self, key, ids, at):
        return await super()._rows_by_id(key, [*ids][:500], at)


class TestLooksUpSome(ClinicSuite):
    subject_class = LooksUpSome
    caught_by = ("test_many_ids_are_looked_up_in_one_go",)


class LooksUpWithoutTheView(Clinic):
    async def among(self, view, resource_type, ids):
        everything = replace(asking(view, since=None, until=None), cohort=None)
        return await super().among(everything, resource_type, ids)


class TestLooksUpWithoutTheView(ClinicSuite):
    subject_class = LooksUpWithoutTheView
    caught_by = (
        "test_ids_are_told_apart_by_who_they_are_about",
        "test_ids_are_told_apart_by_when_they_changed",
    )


class ReadsAnyNumber(ResourceQuery):
    """An id that is no number is a mistake of whoever asks."""

    def to_key(self, resource_id):
        return int(resource_id)


class TestReadsAnyNumber(ClinicSuite):
    subject_class = with_queries(
        ReadsAnyNumber(
            **{name: getattr(PATIENTS, name) for name in PATIENTS.__struct_fields__},
        ),
        VISITS,
        WARDS,
    )
    caught_by = ("test_missing_ids_are_reported",)
