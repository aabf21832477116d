"""Clauses P2 and P3: planning and reading."""

import asyncio
from collections.abc import Iterator

import msgspec
import pytest
from xxhash import xxh3_64_intdigest

from helios_core import (
    BackendError,
    DataProvider,
    ExportView,
    Level,
    QueryDataProvider,
    Shard,
)
from helios_core.fhir import load_definitions, parse_resource
from helios_core.testing.allocations import peak_allocation
from helios_core.testing.data_provider.contract import (
    DataProviderContract,
    names,
)
from helios_core.testing.data_provider.holdings import MEBIBYTE
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
        """P2: about the requested size, if resources are much smaller than that."""
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
        """P2: an export of nothing needs no work."""
        assert await provider.plan(await self.view(provider), shard_bytes=1000) == []

    async def test_a_type_nothing_is_stored_of_has_no_shards(self, provider: DataProvider) -> None:
        """P2: also if other types have some."""
        sample = self.anything("p1")
        await self.insert(provider, sample)

        shards = await provider.plan(await self.view(provider), shard_bytes=1000)

        assert [shard.resource_type for shard in shards] == [sample.resource_type]

    async def test_an_empty_cohort_has_no_shards(self, provider: DataProvider) -> None:
        """P2: an empty cohort is not the same as no cohort."""
        self.needs_type("Patient")
        await self.insert(provider, *self.one_of_each("p1"))
        group = self.request(level=Level.GROUP)

        for nobody in ([], ["somebody-else"]):
            empty = await self.view(provider, group, patients=nobody)
            assert await provider.plan(empty, shard_bytes=1000) == []

    async def test_a_batch_holds_no_more_bytes_than_requested(
        self, provider: DataProvider
    ) -> None:
        """P3: memory grows with the batch, not with the shard."""
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
        """P3: one large resource causes no failure, and shares its batch with none."""
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
        """P3: only known elements, all required ones, and lists for those that can repeat."""
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
        if not isinstance(provider, QueryDataProvider):
            pytest.skip("only a QueryDataProvider has a list of its types")
        assert provider.types == {*self.holdings.types}


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
