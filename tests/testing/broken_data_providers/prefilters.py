"""SupportsPrefilter: candidates that an index finds."""

import msgspec

from helios_core.fhir.search import AnyOf, AnyTerm
from helios_core.memory.data_provider import MemoryDataProvider
from helios_core.model.exports import Level
from helios_core.storage.data_provider import Put
from helios_core.storage.resource_keys import TypeKey
from helios_core.testing import corpus
from tests.testing.broken_data_providers.asking import asking
from tests.testing.on_memory import OnMemoryProvider


class FindsFewerCandidates(MemoryDataProvider):
    """Of several alternatives the index is asked for the first."""

    def read_candidates(self, view, shard, prefilter, *, batch_bytes):
        if isinstance(prefilter, AnyOf):
            prefilter = prefilter.parts[0]
        if isinstance(prefilter, AnyTerm):
            prefilter = AnyTerm(frozenset(sorted(prefilter.terms)[:1]))
        return super().read_candidates(view, shard, prefilter, batch_bytes=batch_bytes)


class TestFindsFewerCandidates(OnMemoryProvider):
    subject_class = FindsFewerCandidates
    caught_by = ("test_candidates_hold_every_match",)


class IndexesFourDigitsOfAYear(MemoryDataProvider):
    """Dates in the last year have no end that could be indexed."""

    async def read_candidates(self, view, shard, prefilter, *, batch_bytes):
        async for batch in super().read_candidates(
            view, shard, prefilter, batch_bytes=batch_bytes
        ):
            ordinary = [line for line in batch.lines if b'"effectiveDateTime":"9999' not in line]
            yield msgspec.structs.replace(batch, lines=ordinary)


class TestIndexesFourDigitsOfAYear(OnMemoryProvider):
    subject_class = IndexesFourDigitsOfAYear
    caught_by = ("test_candidates_hold_every_match_at_the_ends_of_time",)


class IndexesWhatIsTold(MemoryDataProvider):
    """What comes without its terms does not come into the index."""

    def __init__(self, **options):
        super().__init__(**options)
        self._told = set()

    async def write(self, tenant, fhir_version, changes):
        puts = [change.resource for change in changes if isinstance(change, Put)]
        self._told.update(each.id for each in puts if each.terms is not None)
        return await super().write(tenant, fhir_version, changes)

    async def read_candidates(self, view, shard, prefilter, *, batch_bytes):
        async for batch in super().read_candidates(
            view, shard, prefilter, batch_bytes=batch_bytes
        ):
            told = [line for line in batch.lines if msgspec.json.decode(line)["id"] in self._told]
            yield msgspec.structs.replace(batch, lines=told)


class TestIndexesWhatIsTold(OnMemoryProvider):
    subject_class = IndexesWhatIsTold
    caught_by = ("test_candidates_hold_what_came_without_terms",)


class FindsCandidatesOfAllShards(MemoryDataProvider):
    def read_candidates(self, view, shard, prefilter, *, batch_bytes):
        shard = msgspec.structs.replace(shard, start=None, end=None)
        return super().read_candidates(view, shard, prefilter, batch_bytes=batch_bytes)


class TestFindsCandidatesOfAllShards(OnMemoryProvider):
    subject_class = FindsCandidatesOfAllShards
    caught_by = (
        "test_candidates_are_what_a_shard_shows_in_its_order",
        "test_candidates_hold_every_match",
    )


class GivesAllCandidatesAtOnce(MemoryDataProvider):
    def read_candidates(self, view, shard, prefilter, *, batch_bytes):
        return super().read_candidates(view, shard, prefilter, batch_bytes=1 << 40)


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
    def read_candidates(self, view, shard, prefilter, *, batch_bytes):
        view = asking(view, since=None, until=None)
        return super().read_candidates(view, shard, prefilter, batch_bytes=batch_bytes)


class TestFindsCandidatesOfAnyTime(OnMemoryProvider):
    subject_class = FindsCandidatesOfAnyTime
    caught_by = ("test_candidates_follow_the_period_of_the_view",)


class FindsCandidatesOfAnybody(MemoryDataProvider):
    def read_candidates(self, view, shard, prefilter, *, batch_bytes):
        view = msgspec.structs.replace(asking(view, level=Level.SYSTEM), cohort=None)
        return super().read_candidates(view, shard, prefilter, batch_bytes=batch_bytes)


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
                asking(view, tenant=tenant), shard, prefilter, batch_bytes=batch_bytes
            ):
                yield batch


class TestFindsCandidatesOfAllTenants(OnMemoryProvider):
    subject_class = FindsCandidatesOfAllTenants
    caught_by = (
        "test_candidates_stay_in_tenant_and_version",
        "test_what_nobody_stored_has_no_candidates",
    )


class NeedsAnIndexToLookInto(MemoryDataProvider):
    """There is none before the first resource of a type."""

    def read_candidates(self, view, shard, prefilter, *, batch_bytes):
        _ = dict(self._collections)[TypeKey.of(view.request, shard.resource_type)]
        return super().read_candidates(view, shard, prefilter, batch_bytes=batch_bytes)


class TestNeedsAnIndexToLookInto(OnMemoryProvider):
    subject_class = NeedsAnIndexToLookInto
    caught_by = ("test_what_nobody_stored_has_no_candidates",)
