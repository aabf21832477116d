"""Clauses P1 to P4, P6 and P7: what a view shows."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

import msgspec
import pytest
from xxhash import xxh3_64_intdigest

from helios_core import (
    BackendError,
    DataProvider,
    ExportRequest,
    ExportView,
    Level,
    QueryDataProvider,
    Shard,
    SupportsTombstones,
    SupportsWrites,
    TypeKey,
)
from helios_core.fhir import load_definitions, parse_instant, parse_resource
from helios_core.testing.allocations import peak_allocation
from helios_core.testing.corpus import organization, patient
from helios_core.testing.data_provider.contract import (
    DataProviderContract,
    delete,
    names,
    write,
)
from helios_core.testing.data_provider.holdings import MEBIBYTE, Sample
from helios_core.testing.snapshots import read_batches, take_snapshot


class ReadClauses(DataProviderContract):
    """Planning and reading."""

    @pytest.mark.parametrize("shard_bytes", [1, 700, 5_000, 1_000_000_000])
    async def test_shards_cover_a_view_exactly_once(
        self, provider: DataProvider, shard_bytes: int
    ) -> None:
        """P2: whatever their size, every resource is in one shard and in no other."""
        samples = self.mixture(40)
        await self.insert(provider, *samples)

        snapshot = await take_snapshot(
            provider, await self.view(provider), shard_bytes=shard_bytes
        )

        assert snapshot.names == names(*samples)

    @pytest.mark.parametrize("batch_bytes", [1, 700, 5_000, 1_000_000_000])
    async def test_batches_cover_a_shard_exactly_once(
        self, provider: DataProvider, batch_bytes: int
    ) -> None:
        """P3: nothing is lost or repeated where one batch ends and the next begins."""
        samples = self.mixture(40)
        await self.insert(provider, *samples)

        snapshot = await take_snapshot(
            provider, await self.view(provider), batch_bytes=batch_bytes
        )

        assert snapshot.names == names(*samples)

    @pytest.mark.parametrize("batch_bytes", [1, 700, 1_000_000_000])
    async def test_digests_that_are_given_are_those_of_the_lines(
        self, provider: DataProvider, batch_bytes: int
    ) -> None:
        """P3: the proof of completeness adds them up without looking at the lines again."""
        await self.insert(provider, *self.mixture(40))
        everything = await self.view(provider)

        for shard in await provider.plan(everything, shard_bytes=5_000):
            async for batch in provider.read(everything, shard, batch_bytes=batch_bytes):
                assert batch.digests in (None, [xxh3_64_intdigest(line) for line in batch.lines])

    async def test_shards_are_numbered_in_the_order_of_the_types(
        self, provider: DataProvider
    ) -> None:
        """P2: numbers from 0 in the job, ordinals from 1 in the type."""
        await self.insert(provider, *self.mixture(40))
        types = (*self.holdings.types[2:], *self.holdings.types[:2])
        view = await self.view(provider, self.request(types=types))

        shards = await provider.plan(view, shard_bytes=700)

        by_type = [[shard for shard in shards if shard.resource_type == name] for name in types]
        assert [shard.number for shard in shards] == list(range(len(shards)))
        assert shards == [shard for of_type in by_type for shard in of_type]
        for of_type in by_type:
            assert [shard.ordinal for shard in of_type] == list(range(1, len(of_type) + 1))

    async def test_shards_are_sized_by_bytes(self, provider: DataProvider) -> None:
        """P2: about what was requested, when resources are many times smaller."""
        note = "x" * min(MEBIBYTE, self.holdings.note_length)
        samples = [self.anything(f"p{number:02}", note=note) for number in range(24)]
        await self.insert(provider, *samples)
        usual = len((await self.current(provider, samples[0])).content or b"")
        everything = await self.view(provider)

        shards = await provider.plan(everything, shard_bytes=8 * usual)

        sizes = [await _size(provider, everything, shard) for shard in shards]
        assert len(shards) >= 2
        assert max(sizes) <= 17 * usual

    async def test_planning_does_not_load_the_contents(self, provider: DataProvider) -> None:
        """P2: planning is cheap."""
        self.needs_note(MEBIBYTE)
        large = [self.anything(f"p{number:02}", note="x" * MEBIBYTE) for number in range(16)]
        await self.insert(provider, *large)
        del large
        everything = await self.view(provider)

        async with peak_allocation() as peak_bytes:
            await provider.plan(everything, shard_bytes=4 * MEBIBYTE)

            assert peak_bytes() < 4 * MEBIBYTE

    async def test_an_empty_store_has_no_shards(self, provider: DataProvider) -> None:
        """P2: there is nothing to do for an export of nothing."""
        assert await provider.plan(await self.view(provider), shard_bytes=1000) == []

    async def test_a_type_nothing_is_stored_of_has_no_shards(self, provider: DataProvider) -> None:
        """P2: also beside types that have some."""
        sample = self.anything("p1")
        await self.insert(provider, sample)

        shards = await provider.plan(await self.view(provider), shard_bytes=1000)

        assert [shard.resource_type for shard in shards] == [sample.resource_type]

    async def test_an_empty_cohort_has_no_shards(self, provider: DataProvider) -> None:
        """P2: nobody is not everybody."""
        self.needs_type("Patient")
        await self.insert(provider, *self.one_of_each("p1"))
        group = self.request(level=Level.GROUP)

        for nobody in ([], ["somebody-else"]):
            empty = await self.view(provider, group, patients=nobody)
            assert await provider.plan(empty, shard_bytes=1000) == []

    async def test_a_batch_holds_no_more_bytes_than_requested(
        self, provider: DataProvider
    ) -> None:
        """P3: memory follows the batch, not the shard."""
        await self.insert(provider, *self.mixture(60))
        everything = await self.view(provider)
        largest = max(map(len, (await take_snapshot(provider, everything)).lines))
        limit = max(2000, largest)

        sizes = [
            sum(map(len, batch.lines))
            for shard in await provider.plan(everything, shard_bytes=MEBIBYTE)
            for batch in await read_batches(provider, everything, shard, batch_bytes=limit)
        ]

        assert max(sizes) <= limit

    async def test_a_resource_larger_than_a_batch_comes_alone(
        self, provider: DataProvider
    ) -> None:
        """P3: one large resource fails nothing and drags nothing along."""
        self.needs_note(2)
        large = self.anything("p2", note="x" * MEBIBYTE)
        await self.insert(provider, self.anything("p1"), large, self.anything("p3"))
        size = len((await self.current(provider, large)).content or b"")
        everything, limit = await self.view(provider), min(10_000, size - 1)

        read = [
            batch
            for shard in await provider.plan(everything, shard_bytes=MEBIBYTE * 8)
            for batch in await read_batches(provider, everything, shard, batch_bytes=limit)
        ]

        over = [batch for batch in read if sum(map(len, batch.lines)) > limit]
        assert [len(batch.lines) for batch in over] == [1]
        assert sum(len(batch.lines) for batch in read) == 3

    async def test_reading_a_shard_again_gives_the_same(self, provider: DataProvider) -> None:
        """P3: a second attempt writes the same file."""
        await self.insert(provider, *self.mixture(40))
        everything = await self.view(provider)

        for shard in await provider.plan(everything, shard_bytes=5000):
            once = await read_batches(provider, everything, shard, batch_bytes=700)
            again = await read_batches(provider, everything, shard, batch_bytes=1900)

            lines = [line for batch in once for line in batch.lines]
            assert lines == [line for batch in again for line in batch.lines]

    async def test_reading_may_stop_early(self, provider: DataProvider) -> None:
        """P3: closing the iterator releases everything it holds."""
        await self.insert(provider, *self.mixture(40))
        everything = await self.view(provider)
        [shard, *_] = await provider.plan(everything, shard_bytes=MEBIBYTE)

        for _ in range(20):
            reading = provider.read(everything, shard, batch_bytes=1)
            await anext(reading)
            await reading.aclose()  # type: ignore[attr-defined]

        assert await read_batches(provider, everything, shard)

    async def test_shards_can_be_read_at_the_same_time(self, provider: DataProvider) -> None:
        """P3: as several workers do."""
        samples = self.mixture(60)
        await self.insert(provider, *samples)
        everything = await self.view(provider)
        shards = await provider.plan(everything, shard_bytes=1500)

        async with asyncio.TaskGroup() as group:
            readings = [
                group.create_task(read_batches(provider, everything, shard, batch_bytes=400))
                for shard in shards
            ]

        lines = [line for task in readings for batch in task.result() for line in batch.lines]
        assert len(lines) == len(set(lines)) == len(samples)

    async def test_a_line_is_the_resource_with_its_version_and_instant(
        self, provider: DataProvider
    ) -> None:
        """P3: what went in comes out as one compact line, stamped."""
        samples = self.one_of_each("p1", note='quoted " and \\ and é\u2028, "1.10"')
        await self.insert(provider, *samples)
        snapshot = await take_snapshot(provider, await self.view(provider))
        lines = {_name(line): line for line in snapshot.lines}

        for sample in samples:
            line, stored = lines[sample.name], await self.current(provider, sample)
            parsed = parse_resource(line, self.holdings.fhir_version)
            assert line == stored.content
            assert (stored.resource_type, stored.id) == (sample.resource_type, sample.id)
            assert line == msgspec.json.format(line, indent=-1)
            assert b"\n" not in line
            assert (parsed.resource_type, parsed.id) == (sample.resource_type, sample.id)
            stamped = parsed.stamped(stored.version_id, stored.last_updated)
            assert msgspec.json.decode(line) == msgspec.json.decode(stamped)
            assert any(sample.note in text for text in _texts(msgspec.json.decode(line)))
            if self.holds_anything:
                resource = sample.resource(self.holdings.fhir_version)
                assert line == resource.stamped(stored.version_id, stored.last_updated)

    async def test_lines_have_the_elements_of_their_type(self, provider: DataProvider) -> None:
        """P3: known ones, the required ones, and lists of those that can be repeated."""
        samples = self.one_of_each("p1", note="a")
        await self.insert(provider, *samples)
        definitions = load_definitions(self.holdings.fhir_version)

        for sample in samples:
            stored = await self.current(provider, sample)
            line = msgspec.json.decode(stored.content or b"", type=dict[str, object])
            del line["resourceType"]
            elements = definitions.elements(sample.resource_type)
            present = {name.lstrip("_") for name in line}
            choices = {
                f"{name[:-3]}{kind[:1].upper()}{kind[1:]}": name
                for name, element in elements.items()
                if name.endswith("[x]")
                for kind in element.types
            }
            present = {choices.get(name, name) for name in present}
            assert present <= elements.keys(), sample.resource_type
            required = {name for name, element in elements.items() if element.min}
            assert required <= present, sample.resource_type
            for name, value in line.items():
                element = elements.get(name)
                assert element is None or isinstance(value, list) == (element.max == "*"), name

    async def test_the_system_level_shows_every_resource(self, provider: DataProvider) -> None:
        """P3: in a compartment or not."""
        self.needs_type("Patient")
        samples = self.levels()
        await self.insert(provider, *samples)

        snapshot = await take_snapshot(provider, await self.view(provider))

        assert snapshot.names == names(*samples)

    async def test_the_patient_level_shows_the_compartments(self, provider: DataProvider) -> None:
        """P3: it is no system export, and a resource in two compartments appears once."""
        self.needs_type("Patient")
        samples = self.levels()
        await self.insert(provider, *samples)
        view = await self.view(provider, self.request(level=Level.PATIENT))

        snapshot = await take_snapshot(provider, view, shard_bytes=700)

        assert snapshot.names == names(*(sample for sample in samples if sample.patients))

    @pytest.mark.parametrize("level", [Level.PATIENT, Level.GROUP])
    async def test_a_cohort_shows_its_compartments(
        self, provider: DataProvider, level: Level
    ) -> None:
        """P4: and nothing of other patients."""
        self.needs_type("Patient")
        samples, request = self.levels(), self.request(level=level)
        await self.insert(provider, *samples)

        for cohort in (["p1"], ["p2"], ["p1", "p2"]):
            view = await self.view(provider, request, patients=cohort)
            snapshot = await take_snapshot(provider, view, shard_bytes=700)

            assert snapshot.names == names(*self._about(samples, cohort))

    async def test_a_large_cohort_works(self, provider: DataProvider) -> None:
        """P4: a hundred thousand ids, over many pages."""
        self.needs_type("Patient")
        members = [self.sample("Patient", f"p{number}") for number in range(0, 1000, 10)]
        others = [self.sample("Patient", f"other-{number}") for number in range(100)]
        await self.insert(provider, *members, *others)
        everybody = [f"p{number}" for number in range(100_000)]
        view = await self.view(provider, self.request(level=Level.GROUP), patients=everybody)

        snapshot = await take_snapshot(provider, view, shard_bytes=2000, batch_bytes=500)

        assert snapshot.names == names(*members)

    async def test_two_cohorts_read_at_once_do_not_mix(self, provider: DataProvider) -> None:
        """P4: a provider that keeps a cohort at hand keeps them apart."""
        self.needs_type("Patient")
        samples = [self.sample("Patient", f"p{number}") for number in range(20)]
        await self.insert(provider, *samples)
        cohorts = [[f"p{number}" for number in range(start, 20, 2)] for start in (0, 1)] * 4
        group_level = self.request(level=Level.GROUP)
        views = [await self.view(provider, group_level, patients=cohort) for cohort in cohorts]

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(take_snapshot(provider, each, batch_bytes=1)) for each in views
            ]

        for task, cohort in zip(tasks, cohorts, strict=True):
            assert task.result().names == names(*self._about(samples, cohort))

    async def test_since_is_exclusive(self, provider: DataProvider) -> None:
        """P3: only resources changed strictly after it."""
        samples, stamps = await self._stored_in_turn(provider)
        since = stamps[len(stamps) // 2]

        snapshot = await take_snapshot(
            provider, await self.view(provider, self.request(since=since))
        )

        assert snapshot.names == names(*await self._changed_within(provider, samples, since=since))
        assert not self.holdings.stamps_rows or 0 < len(snapshot.names) < len(samples)

    async def test_until_is_exclusive(self, provider: DataProvider) -> None:
        """P3: only resources changed strictly before it."""
        samples, stamps = await self._stored_in_turn(provider)
        until = stamps[len(stamps) // 2]

        snapshot = await take_snapshot(
            provider, await self.view(provider, self.request(until=until))
        )

        assert snapshot.names == names(*await self._changed_within(provider, samples, until=until))
        assert not self.holdings.stamps_rows or 0 < len(snapshot.names) < len(samples)

    async def test_nothing_changed_since_has_no_shards(self, provider: DataProvider) -> None:
        """P2: an incremental export without changes costs nothing."""
        await self.insert(provider, *self.one_of_each("p1"))
        since = await provider.transaction_time()

        news = await self.view(provider, self.request(since=since))

        assert await provider.plan(news, shard_bytes=1000) == []

    @pytest.mark.parametrize("bound", ["since", "until"])
    async def test_a_view_may_be_bounded_by_the_ends_of_time(
        self, provider: DataProvider, bound: str
    ) -> None:
        """P3: what lies before the first or after the last year bounds nothing."""
        samples = self.mixture(12)
        await self.insert(provider, *samples)
        since = parse_instant("0001-01-01T00:00:00+14:00") if bound == "since" else None
        until = parse_instant("9999-12-31T23:59:59-05:00") if bound == "until" else None

        bounded = await self.view(provider, self.request(since=since, until=until))

        assert (await take_snapshot(provider, bounded)).names == names(*samples)

    async def test_a_damaged_resource_is_reported_while_others_flow(
        self, provider: DataProvider
    ) -> None:
        """P6: once, by name, with a reason, and without its content."""
        samples = [self.anything(f"p{number}", note="secret") for number in range(20)]
        await self.insert(provider, *samples)
        await self.damage(provider, samples[7].resource_type, samples[7].id)

        snapshot = await take_snapshot(
            provider, await self.view(provider), shard_bytes=1500, batch_bytes=500
        )

        assert snapshot.names == names(*samples[:7], *samples[8:])
        assert names(*snapshot.damaged) == [samples[7].name]
        assert snapshot.damaged[0].reason
        assert "secret" not in snapshot.damaged[0].reason

    async def test_a_damaged_resource_alone_in_its_shard_is_reported(
        self, provider: DataProvider
    ) -> None:
        """P6: also when there is no line to report it with."""
        sample = self.anything("p1")
        await self.insert(provider, sample)
        await self.damage(provider, sample.resource_type, sample.id)

        snapshot = await take_snapshot(provider, await self.view(provider))

        assert (snapshot.names, names(*snapshot.damaged)) == ([], [sample.name])

    @pytest.mark.parametrize("level", [Level.SYSTEM, Level.PATIENT])
    @pytest.mark.parametrize("lost", [["p0"], ["p7", "p8"], ["p19"]])
    async def test_resources_that_are_gone_are_noticed(
        self, provider: DataProvider, level: Level, lost: Sequence[str]
    ) -> None:
        """P9: wherever they were, and whatever else is shown."""
        self.needs(SupportsWrites)
        await write(provider, *(patient(f"p{number}") for number in range(20)))
        await self.lose(provider, "Patient", lost)

        assert await self._is_noticed(provider, self.request(level=level))

    async def test_a_type_that_is_gone_is_noticed(self, provider: DataProvider) -> None:
        """P9: an export without it looks like one of a store that never had it."""
        self.needs(SupportsWrites)
        await write(provider, patient("p1"), patient("p2"), organization("x"))
        await self.lose(provider, "Patient", ["p1", "p2"])

        assert await self._is_noticed(provider, self.request())

    async def test_deletions_that_are_gone_are_noticed(self, provider: DataProvider) -> None:
        """P9: a client would keep what was deleted."""
        self.needs(SupportsWrites)
        self.needs(SupportsTombstones)
        await write(provider, patient("p1"), patient("p2"), patient("p3"))
        since = await provider.transaction_time()
        await write(provider, delete(patient("p1")), patient("p2", note="b"))
        await self.lose(provider, "Patient", ["p1"])

        assert await self._is_noticed(provider, self.request(since=since))

    async def _is_noticed(self, provider: DataProvider, request: ExportRequest) -> bool:
        try:
            snapshot = await take_snapshot(provider, await self.view(provider, request))
        except BackendError:
            return True
        return bool(snapshot.damaged)

    async def test_another_tenant_is_never_shown(self, provider: DataProvider) -> None:
        """P7: though it uses the same ids, or has nothing at all."""
        ours, theirs = [self.anything("p1"), self.anything("p2")], list[Sample]()
        other = self.holdings.other_tenant
        await self.insert(provider, *ours)
        if other in self.holdings.tenants:
            theirs = [self.anything("p1", note="b")]
            await self.insert(provider, *theirs, tenant=other)

        as_us = await take_snapshot(provider, await self.view(provider))
        as_them = await take_snapshot(
            provider, await self.view(provider, self.request(tenant=other))
        )

        assert (as_us.names, as_them.names) == (names(*ours), names(*theirs))
        assert not {*as_us.lines} & {*as_them.lines}
        key = TypeKey(other, self.holdings.fhir_version, ours[1].resource_type)
        assert await provider.get(key.resource(ours[1].id)) is None
        assert await provider.missing(key, [ours[1].id]) == {ours[1].id}

    async def test_another_fhir_version_is_never_shown(self, provider: DataProvider) -> None:
        """P7: a job is about one version of FHIR."""
        ours, theirs = [self.anything("p1"), self.anything("p2")], list[Sample]()
        other = self.holdings.other_version
        await self.insert(provider, *ours)
        if other in self.holdings.fhir_versions:
            theirs = [self.anything("p1", note="b")]
            await self.insert(provider, *theirs, fhir_version=other)

        as_us = await take_snapshot(provider, await self.view(provider))
        as_them = await take_snapshot(
            provider, await self.view(provider, self.request(fhir_version=other))
        )

        assert (as_us.names, as_them.names) == (names(*ours), names(*theirs))
        assert not {*as_us.lines} & {*as_them.lines}
        key = TypeKey(self.holdings.tenant, other, ours[1].resource_type)
        assert await provider.get(key.resource(ours[1].id)) is None

    async def test_a_cohort_stays_in_its_tenant(self, provider: DataProvider) -> None:
        """P7: patient ids repeat between tenants, and so may cohort keys."""
        self.needs_type("Patient")
        ours, theirs = self.sample("Patient", "p1"), self.one_of_each("p1")
        other, held = self.holdings.other_tenant, self.holdings.tenants
        await self.insert(provider, ours)
        if other in held:
            await self.insert(provider, *theirs, tenant=other)
        group, elsewhere = (
            self.request(level=Level.GROUP, tenant=tenant) for tenant in (None, other)
        )

        as_us = await take_snapshot(provider, await self.view(provider, group, patients=["p1"]))
        as_them = await take_snapshot(
            provider, await self.view(provider, elsewhere, patients=["p1"])
        )

        expected = self._about(theirs, ["p1"]) if other in held else []
        assert (as_us.names, as_them.names) == (names(ours), names(*expected))

    async def test_missing_ids_are_reported(self, provider: DataProvider) -> None:
        """P7: of this tenant, version and type, whatever the ids look like."""
        first, second = self.anything("p1"), self.anything("p2")
        others = [self.sample(name, "x") for name in self.holdings.other_types][:1]
        await self.insert(provider, first, second, *others)
        absent = {"no-such.id", "0", "99999999999999999999", "-1", *self.ids("p9")}
        absent |= {each.id for each in others if each.resource_type != first.resource_type}

        missing = await provider.missing(
            self.key(first.resource_type), [first.id, second.id, *absent]
        )

        assert missing == absent
        for resource_id in absent:
            key = self.key(first.resource_type).resource(resource_id)
            assert await provider.get(key) is None

    async def test_what_is_stored_before_is_covered_and_what_comes_later_is_later(
        self, provider: DataProvider
    ) -> None:
        """P1: a transaction time lies between what was committed before and after it."""
        for number in range(10):
            before = await provider.transaction_time()
            sample = self.anything(f"p{number}")
            await self.insert(provider, sample)

            stored = await self.current(provider, sample)
            assert before < stored.last_updated <= await provider.transaction_time()

    async def test_a_transaction_time_is_settled_while_something_is_being_stored(
        self, provider: DataProvider
    ) -> None:
        """P1: what is not committed yet will be later."""
        await self.insert(provider, *self.one_of_each("p1"))
        samples = self.one_of_each("p2")

        async with self.inserting(
            provider,
            samples,
            tenant=self.holdings.tenant,
            fhir_version=self.holdings.fhir_version,
        ):
            now = await provider.transaction_time()

        assert now < min(await self.changed(provider, samples))

    async def test_an_earlier_state_is_shown_or_refused(self, provider: DataProvider) -> None:
        """P3: what is stored later is not shown, and nothing else is shown in its place."""
        samples = self.mixture(12)
        await self.insert(provider, *samples)
        past = await self.view(provider)
        await self.insert(provider, *self.one_of_each("later"))
        key, ids = self.key(samples[0].resource_type), [samples[0].id, self.id("later")]
        whole_type = Shard(number=0, resource_type=key.resource_type, ordinal=1)
        at = past.transaction_time

        if self.holdings.keeps_past:
            assert (await take_snapshot(provider, past)).names == names(*samples)
            assert await provider.missing(key, ids, at=at) == {ids[1]}
            return
        for refused in (
            provider.plan(past, shard_bytes=1000),
            read_batches(provider, past, whole_type),
            provider.fetch(key, ids, at=at),
            provider.missing(key, ids, at=at),
            provider.among(past, key.resource_type, ids),
        ):
            with pytest.raises(BackendError):
                await refused

    async def test_what_is_stored_during_a_read_is_not_shown(self, provider: DataProvider) -> None:
        """P3: between any two batches something may be stored."""
        await self.insert(provider, *self.mixture(20))
        everything = await self.view(provider)
        before = await take_snapshot(provider, everything)
        [shard, *_] = await provider.plan(everything, shard_bytes=1_000_000_000)
        prefix = f"{shard.resource_type}/"
        expected = [line for line in before.lines if _name(line).startswith(prefix)]

        reading = provider.read(everything, shard, batch_bytes=1)
        lines = [*(await anext(reading)).lines]
        await self.insert(provider, *self.one_of_each("later"))

        if self.holdings.keeps_past:
            assert [*lines, *[line async for batch in reading for line in batch.lines]] == expected
        else:
            with pytest.raises(BackendError):
                _ = [batch async for batch in reading]

    async def test_the_holdings_name_every_type_of_the_provider(
        self, provider: DataProvider
    ) -> None:
        """P2: a type that is left out would not be tested at all."""
        if isinstance(provider, QueryDataProvider):
            assert provider.types == {*self.holdings.types}

    def _about(self, samples: Collection[Sample], cohort: Collection[str]) -> list[Sample]:
        ids = {self.id(label) for label in cohort}
        return [sample for sample in samples if not ids.isdisjoint(sample.patients)]

    async def _stored_in_turn(self, provider: DataProvider) -> tuple[list[Sample], list[datetime]]:
        samples = list[Sample]()
        for turn in ("p1", "p2", "p3"):
            added = self.one_of_each(turn)
            await self.insert(provider, *added)
            samples += added
        return samples, await self.changed(provider, samples)

    async def _changed_within(
        self,
        provider: DataProvider,
        samples: Collection[Sample],
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[Sample]:
        within = list[Sample]()
        for sample in samples:
            changed = (await self.current(provider, sample)).last_updated
            after = since is None or changed > since
            if after and (until is None or changed < until):
                within.append(sample)
        return within


async def _size(provider: DataProvider, view: ExportView, shard: Shard) -> int:
    read = await read_batches(provider, view, shard)
    return sum(len(line) for batch in read for line in batch.lines)


def _name(line: bytes) -> str:
    resource = msgspec.json.decode(line)
    return f"{resource['resourceType']}/{resource['id']}"


def _texts(node: object) -> Iterator[str]:
    match node:
        case str():
            yield node
        case dict() | list():
            for child in node.values() if isinstance(node, dict) else node:
                yield from _texts(child)
