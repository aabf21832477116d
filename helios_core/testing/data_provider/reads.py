"""Clauses P1 to P4, P6 and P7: what a view shows."""

import asyncio
import tracemalloc

import pytest
from xxhash import xxh3_64_intdigest

from helios_core import DataProvider, ExportView, Level, Shard
from helios_core.fhir import FHIRVersion
from helios_core.testing import corpus
from helios_core.testing.corpus import mixture, observation, organization, patient, request, view
from helios_core.testing.data_provider.contract import (
    DataProviderContract,
    everything_now,
    get,
    names,
)
from helios_core.testing.snapshots import batches, take

MEBIBYTE = 1024 * 1024


class ReadClauses(DataProviderContract):
    """Planning and reading."""

    @pytest.mark.parametrize("shard_bytes", [1, 700, 5_000, 1_000_000_000])
    async def test_shards_cover_a_view_exactly_once(
        self, provider: DataProvider, shard_bytes: int
    ) -> None:
        """P2: whatever their size, every resource is in one shard and in no other."""
        resources = mixture(40)
        await self.seed(provider, *resources)

        snapshot = await take(provider, await everything_now(provider), shard_bytes=shard_bytes)

        assert snapshot.names == names(*resources)

    @pytest.mark.parametrize("batch_bytes", [1, 700, 5_000, 1_000_000_000])
    async def test_batches_cover_a_shard_exactly_once(
        self, provider: DataProvider, batch_bytes: int
    ) -> None:
        """P3: nothing is lost or repeated where one batch ends and the next begins."""
        resources = mixture(40)
        await self.seed(provider, *resources)

        snapshot = await take(provider, await everything_now(provider), batch_bytes=batch_bytes)

        assert snapshot.names == names(*resources)

    @pytest.mark.parametrize("batch_bytes", [1, 700, 1_000_000_000])
    async def test_digests_that_are_given_are_those_of_the_lines(
        self, provider: DataProvider, batch_bytes: int
    ) -> None:
        """P3: the proof of completeness adds them up without looking at the lines again."""
        await self.seed(provider, *mixture(40))
        everything = await everything_now(provider)

        for shard in await provider.plan(everything, shard_bytes=5_000):
            async for batch in provider.read(everything, shard, batch_bytes=batch_bytes):
                assert batch.digests in (None, [xxh3_64_intdigest(line) for line in batch.lines])

    async def test_shards_are_numbered_in_the_order_of_the_types(
        self, provider: DataProvider
    ) -> None:
        """P2: numbers from 0 in the job, ordinals from 1 in the type."""
        await self.seed(provider, *mixture(40))
        types = ("Organization", "Patient", "Observation")
        now = await provider.transaction_time()

        shards = await provider.plan(view(now, request(types=types)), shard_bytes=700)

        by_type = {kind: [s for s in shards if s.resource_type == kind] for kind in types}
        assert [shard.number for shard in shards] == list(range(len(shards)))
        assert shards == [shard for each in by_type.values() for shard in each]
        for each in by_type.values():
            assert [shard.ordinal for shard in each] == list(range(1, len(each) + 1))

    async def test_shards_are_sized_by_bytes(self, provider: DataProvider) -> None:
        """P2: about what was asked for, when resources are many times smaller."""
        large = [patient(f"p{number:02}", note="x" * MEBIBYTE) for number in range(24)]
        await self.seed(provider, *large)
        everything = await everything_now(provider)

        shards = await provider.plan(everything, shard_bytes=8 * MEBIBYTE)

        sizes = [await _size(provider, everything, shard) for shard in shards]
        assert len(shards) >= 2
        assert max(sizes) <= 17 * MEBIBYTE

    async def test_planning_does_not_load_the_contents(self, provider: DataProvider) -> None:
        """P2: planning is cheap."""
        large = [patient(f"p{number:02}", note="x" * MEBIBYTE) for number in range(16)]
        await self.seed(provider, *large)
        del large
        everything = await everything_now(provider)

        tracemalloc.start()
        await provider.plan(everything, shard_bytes=4 * MEBIBYTE)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert peak_bytes < 4 * MEBIBYTE

    async def test_an_empty_store_has_no_shards(self, provider: DataProvider) -> None:
        """P2: there is nothing to do for an export of nothing."""
        assert await provider.plan(await everything_now(provider), shard_bytes=1000) == []

    async def test_a_type_nothing_is_stored_of_has_no_shards(self, provider: DataProvider) -> None:
        """P2: also beside types that have some."""
        await self.seed(provider, patient("p1"))

        shards = await provider.plan(await everything_now(provider), shard_bytes=1000)

        assert [shard.resource_type for shard in shards] == ["Patient"]

    async def test_an_empty_cohort_has_no_shards(self, provider: DataProvider) -> None:
        """P2: nobody is not everybody."""
        await self.seed(provider, patient("p1"), observation("o1", "p1"), organization("x"))
        now = await provider.transaction_time()
        group = request(level=Level.GROUP)

        for nobody in ([], ["somebody-else"]):
            empty = view(now, group, patients=nobody)
            assert await provider.plan(empty, shard_bytes=1000) == []

    async def test_a_batch_holds_no_more_bytes_than_asked(self, provider: DataProvider) -> None:
        """P3: memory follows the batch, not the shard."""
        await self.seed(provider, *mixture(60))
        everything = await everything_now(provider)

        sizes = [
            sum(map(len, batch.lines))
            for shard in await provider.plan(everything, shard_bytes=MEBIBYTE)
            for batch in await batches(provider, everything, shard, batch_bytes=2000)
        ]

        assert max(sizes) <= 2000

    async def test_a_resource_larger_than_a_batch_comes_alone(
        self, provider: DataProvider
    ) -> None:
        """P3: one large resource fails nothing and drags nothing along."""
        large = patient("p2", note="x" * MEBIBYTE)
        await self.seed(provider, patient("p1"), large, patient("p3"))
        everything = await everything_now(provider)

        found = [
            batch
            for shard in await provider.plan(everything, shard_bytes=MEBIBYTE * 8)
            for batch in await batches(provider, everything, shard, batch_bytes=10_000)
        ]

        over = [batch for batch in found if sum(map(len, batch.lines)) > 10_000]
        assert [len(batch.lines) for batch in over] == [1]
        assert sum(len(batch.lines) for batch in found) == 3

    async def test_reading_a_shard_again_gives_the_same(self, provider: DataProvider) -> None:
        """P3: a second attempt writes the same file."""
        await self.seed(provider, *mixture(40))
        everything = await everything_now(provider)

        for shard in await provider.plan(everything, shard_bytes=5000):
            once = await batches(provider, everything, shard, batch_bytes=700)
            again = await batches(provider, everything, shard, batch_bytes=1900)

            lines = [line for batch in once for line in batch.lines]
            assert lines == [line for batch in again for line in batch.lines]

    async def test_reading_may_stop_early(self, provider: DataProvider) -> None:
        """P3: whoever closes the iterator leaves nothing held."""
        await self.seed(provider, *mixture(40))
        everything = await everything_now(provider)
        [shard, *_] = await provider.plan(everything, shard_bytes=MEBIBYTE)

        for _ in range(20):
            reading = provider.read(everything, shard, batch_bytes=1)
            await anext(reading)
            await reading.aclose()  # type: ignore[attr-defined]

        assert await batches(provider, everything, shard)

    async def test_shards_can_be_read_at_the_same_time(self, provider: DataProvider) -> None:
        """P3: as several workers do."""
        resources = mixture(60)
        await self.seed(provider, *resources)
        everything = await everything_now(provider)
        shards = await provider.plan(everything, shard_bytes=1500)

        async with asyncio.TaskGroup() as group:
            readings = [
                group.create_task(batches(provider, everything, shard, batch_bytes=400))
                for shard in shards
            ]

        lines = [line for task in readings for batch in task.result() for line in batch.lines]
        assert len(lines) == len(set(lines)) == len(resources)

    async def test_a_line_is_the_resource_with_its_version_and_instant(
        self, provider: DataProvider
    ) -> None:
        """P3: what went in comes out as one compact line, stamped."""
        resource = patient("p1", note='quoted " and \\ and é\u2028, "1.10"')
        await self.seed(provider, resource)

        [line] = (await take(provider, await everything_now(provider))).lines

        stored = await get(provider, resource)
        assert stored is not None
        assert line == stored.content == resource.stamped(stored.version_id, stored.last_updated)
        assert b"\n" not in line

    async def test_the_system_level_shows_every_resource(self, provider: DataProvider) -> None:
        """P3: in a compartment or not."""
        await self._seed_levels(provider)

        snapshot = await take(provider, await everything_now(provider))

        assert snapshot.names == [
            *("Observation/o-both", "Observation/o-none", "Observation/o1", "Observation/o2"),
            *("Organization/x", "Patient/p1", "Patient/p2"),
        ]

    async def test_the_patient_level_shows_the_compartments(self, provider: DataProvider) -> None:
        """P3: it is no system export, and a resource in two compartments appears once."""
        await self._seed_levels(provider)
        now = await provider.transaction_time()

        snapshot = await take(provider, view(now, request(level=Level.PATIENT)))

        assert snapshot.names == [
            *("Observation/o-both", "Observation/o1", "Observation/o2"),
            *("Patient/p1", "Patient/p2"),
        ]

    @pytest.mark.parametrize("level", [Level.PATIENT, Level.GROUP])
    async def test_a_cohort_shows_its_compartments(
        self, provider: DataProvider, level: Level
    ) -> None:
        """P4: and nothing of other patients."""
        await self._seed_levels(provider)
        now = await provider.transaction_time()

        of_one = await take(provider, view(now, request(level=level), patients=["p1"]))
        of_both = await take(provider, view(now, request(level=level), patients=["p1", "p2"]))

        assert of_one.names == ["Observation/o-both", "Observation/o1", "Patient/p1"]
        assert of_both.names == [
            *("Observation/o-both", "Observation/o1", "Observation/o2"),
            *("Patient/p1", "Patient/p2"),
        ]

    async def test_a_large_cohort_works(self, provider: DataProvider) -> None:
        """P4: a hundred thousand ids, over many pages."""
        stored = [patient(f"p{number}") for number in range(0, 1000, 10)]
        others = [patient(f"other-{number}") for number in range(100)]
        await self.seed(provider, *stored, *others)
        ids = [f"p{number}" for number in range(100_000)]
        now = await provider.transaction_time()
        large = view(now, request(level=Level.GROUP), patients=ids)

        snapshot = await take(provider, large, shard_bytes=2000, batch_bytes=500)

        assert snapshot.names == names(*stored)

    async def test_two_cohorts_read_at_once_do_not_mix(self, provider: DataProvider) -> None:
        """P4: a provider that keeps a cohort at hand keeps them apart."""
        await self.seed(provider, *(patient(f"p{number}") for number in range(20)))
        now = await provider.transaction_time()
        even, odd = ([f"p{number}" for number in range(start, 20, 2)] for start in (0, 1))
        views = [view(now, request(level=Level.GROUP), patients=ids) for ids in (even, odd) * 4]

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(take(provider, each, batch_bytes=1)) for each in views]

        found = [task.result().names for task in tasks]
        assert found == [sorted(f"Patient/{each}" for each in ids) for ids in (even, odd)] * 4

    async def test_since_is_exclusive(self, provider: DataProvider) -> None:
        """P3: only resources changed strictly after it."""
        first, second, third = (patient(f"p{number}") for number in range(3))
        for resource in (first, second, third):
            await self.seed(provider, resource)
        stored = await get(provider, second)
        assert stored is not None

        since = request(since=stored.last_updated)
        snapshot = await take(provider, view(await provider.transaction_time(), since))

        assert snapshot.names == names(third)

    async def test_until_is_exclusive(self, provider: DataProvider) -> None:
        """P3: only resources changed strictly before it."""
        first, second, third = (patient(f"p{number}") for number in range(3))
        for resource in (first, second, third):
            await self.seed(provider, resource)
        stored = await get(provider, second)
        assert stored is not None

        until = request(until=stored.last_updated)
        snapshot = await take(provider, view(await provider.transaction_time(), until))

        assert snapshot.names == names(first)

    async def test_nothing_changed_since_has_no_shards(self, provider: DataProvider) -> None:
        """P2: an incremental export without news costs nothing."""
        await self.seed(provider, patient("p1"))
        since = await provider.transaction_time()
        now = await provider.transaction_time()

        assert await provider.plan(view(now, request(since=since)), shard_bytes=1000) == []

    async def test_a_damaged_resource_is_reported_while_others_flow(
        self, provider: DataProvider
    ) -> None:
        """P6: once, by name, with a reason, and without its content."""
        resources = [patient(f"p{number}", note="secret") for number in range(20)]
        await self.seed(provider, *resources)
        await self.damage(provider, "Patient", "p7")

        snapshot = await take(
            provider, await everything_now(provider), shard_bytes=1500, batch_bytes=500
        )

        assert snapshot.names == names(*(each for each in resources if each.id != "p7"))
        assert [(each.resource_type, each.id) for each in snapshot.damaged] == [("Patient", "p7")]
        assert snapshot.damaged[0].reason
        assert "secret" not in snapshot.damaged[0].reason

    async def test_a_damaged_resource_alone_in_its_shard_is_reported(
        self, provider: DataProvider
    ) -> None:
        """P6: also when there is no line to report it with."""
        await self.seed(provider, patient("p1"))
        await self.damage(provider, "Patient", "p1")

        snapshot = await take(provider, await everything_now(provider))

        assert (snapshot.names, [each.id for each in snapshot.damaged]) == ([], ["p1"])

    async def test_another_tenant_is_never_shown(self, provider: DataProvider) -> None:
        """P7: though it uses the same ids."""
        await self.seed(provider, patient("p1"), patient("p2"))
        await self.seed(provider, patient("p1", note="b"), tenant=corpus.OTHER_TENANT)
        now = await provider.transaction_time()

        ours = await take(provider, view(now))
        theirs = await take(provider, view(now, request(tenant=corpus.OTHER_TENANT)))

        assert (ours.names, theirs.names) == (["Patient/p1", "Patient/p2"], ["Patient/p1"])
        assert not {*ours.lines} & {*theirs.lines}
        missing = provider.get(
            corpus.type_key("Patient", tenant=corpus.OTHER_TENANT).resource("p2")
        )
        assert await missing is None

    async def test_another_fhir_version_is_never_shown(self, provider: DataProvider) -> None:
        """P7: a job is about one version of FHIR."""
        r5 = FHIRVersion.R5
        await self.seed(provider, patient("p1"), patient("p2"))
        await self.seed(provider, patient("p1", note="b", fhir_version=r5), fhir_version=r5)
        now = await provider.transaction_time()

        as_r4 = await take(provider, view(now))
        as_r5 = await take(provider, view(now, request(fhir_version=r5)))

        assert (as_r4.names, as_r5.names) == (["Patient/p1", "Patient/p2"], ["Patient/p1"])
        assert not {*as_r4.lines} & {*as_r5.lines}
        assert (
            await provider.get(corpus.type_key("Patient", fhir_version=r5).resource("p2")) is None
        )

    async def test_a_cohort_stays_in_its_tenant(self, provider: DataProvider) -> None:
        """P7: patient ids repeat between tenants, and so may cohort keys."""
        await self.seed(provider, patient("p1"))
        await self.seed(
            provider, patient("p1"), observation("o1", "p1"), tenant=corpus.OTHER_TENANT
        )
        now = await provider.transaction_time()

        found = await take(provider, view(now, request(level=Level.GROUP), patients=["p1"]))

        assert found.names == ["Patient/p1"]

    async def test_missing_ids_are_told(self, provider: DataProvider) -> None:
        """P7: of this tenant, version and type."""
        await self.seed(provider, patient("p1"), patient("p2"), organization("x"))

        missing = await provider.missing(corpus.type_key("Patient"), ["p1", "x", "p9"])

        assert missing == {"x", "p9"}

    async def _seed_levels(self, provider: DataProvider) -> None:
        await self.seed(
            provider,
            patient("p1"),
            patient("p2"),
            observation("o1", "p1"),
            observation("o2", "p2"),
            observation("o-both", "p1", "p2"),
            observation("o-none"),
            organization("x"),
        )


async def _size(provider: DataProvider, of: ExportView, shard: Shard) -> int:
    found = await batches(provider, of, shard)
    return sum(len(line) for batch in found for line in batch.lines)
