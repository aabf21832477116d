"""Clauses P1 and P3: what a view shows while the data changes."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from helios_core import DataProvider, Level, SupportsWrites
from helios_core.testing import corpus
from helios_core.testing.corpus import mixture, observation, patient, request, view
from helios_core.testing.data_provider.contract import (
    DataProviderContract,
    delete,
    get,
    names,
    stamp_of,
    view_everything,
    write,
)
from helios_core.testing.snapshots import take_snapshot

DAY = timedelta(days=1)


class ChangeClauses(DataProviderContract):
    """Clauses P1 and P3 while the data changes; a provider without writes skips them."""

    async def test_later_writes_are_later_than_the_transaction_time(
        self, provider: DataProvider
    ) -> None:
        """P1: strictly later, even immediately after it was returned."""
        self.needs(SupportsWrites)

        for number in range(50):
            now = await provider.transaction_time()
            assert await stamp_of(provider, patient("p1", note=f"{number}")) > now

    async def test_the_transaction_time_is_not_before_what_is_stored(
        self, provider: DataProvider
    ) -> None:
        """P1: an export shows what was written before it was requested."""
        self.needs(SupportsWrites)

        for number in range(50):
            stamp = await stamp_of(provider, patient("p1", note=f"{number}"))
            assert await provider.transaction_time() >= stamp

    async def test_a_transaction_time_is_settled_under_concurrent_writers(
        self, provider: DataProvider
    ) -> None:
        """P1: a view at this instant shows the same for ever."""
        self.needs(SupportsWrites)
        taken = []

        async with asyncio.TaskGroup() as group:
            writers = [group.create_task(_churn(provider, name, rounds=25)) for name in "abcd"]
            while not all(writer.done() for writer in writers):
                everything = await view_everything(provider)
                taken.append((everything, (await take_snapshot(provider, everything)).versions))
                await asyncio.sleep(0)

        assert len(taken) > 1
        for everything, at_the_time in taken:
            assert (await take_snapshot(provider, everything)).versions == at_the_time

    async def test_stamps_do_not_go_back_with_the_clock(self, provider: DataProvider) -> None:
        """P1: whatever the machine believes the time to be."""
        self.needs(SupportsWrites)
        before = await stamp_of(provider, patient("p1"))
        await self.set_clock_back(provider, by=DAY)

        now = await provider.transaction_time()
        after = await stamp_of(provider, patient("p1", note="b"))

        assert before <= now < after

    async def test_each_write_is_later_than_all_before_it(self, provider: DataProvider) -> None:
        """P1: however close they are."""
        self.needs(SupportsWrites)

        stamps = [await stamp_of(provider, patient(f"p{number}")) for number in range(50)]

        assert stamps == sorted(set(stamps))

    async def test_changes_during_a_read_are_not_shown(self, provider: DataProvider) -> None:
        """P3: between any two batches everything may change."""
        self.needs(SupportsWrites)
        resources = [patient(f"p{number:02}") for number in range(0, 40, 2)]
        await write(provider, *resources)
        everything = await view_everything(provider)
        before = await take_snapshot(provider, everything)
        lines: list[bytes] = []

        for shard in await provider.plan(everything, shard_bytes=1000):
            async for batch in provider.read(everything, shard, batch_bytes=1):
                lines += batch.lines
                count = len(lines)
                changes = [patient(each.id, note=f"{count}") for each in resources[::2]]
                gone = [delete(each) for each in resources[1::2]]
                new = patient(f"p{count % 20 * 2 + 1:02}", note=f"{count}")
                await write(provider, *changes, *gone, new)

        assert lines == list(before.lines)

    async def test_concurrent_writers_do_not_disturb_a_read(self, provider: DataProvider) -> None:
        """P3: exactly the state at the transaction time, however long reading takes."""
        self.needs(SupportsWrites)
        rewritten = [patient(f"{name}{number}") for name in "abc" for number in range(5)]
        await write(provider, *mixture(60), *rewritten)
        everything = await view_everything(provider)
        before = await take_snapshot(provider, everything)

        async with asyncio.TaskGroup() as group:
            writers = [group.create_task(_churn(provider, name, rounds=20)) for name in "abc"]
            during = await take_snapshot(provider, everything, shard_bytes=2000, batch_bytes=300)
            shown = [during]
            while not all(writer.done() for writer in writers):
                shown.append(await take_snapshot(provider, everything, batch_bytes=300))
                await asyncio.sleep(0)

        assert {tuple(sorted(each.lines)) for each in shown} == {tuple(sorted(before.lines))}

    async def test_a_view_of_the_past_shows_the_past(self, provider: DataProvider) -> None:
        """P3: a later update does not hide the version of that time."""
        self.needs(SupportsWrites)
        one, two = patient("p1"), patient("p2")
        await write(provider, one, two)
        past = await view_everything(provider)
        await write(provider, patient("p1", note="b"), delete(two), patient("p3"))
        await write(provider, patient("p1", note="c"), patient("p2", note="c"))

        then, now = (
            await take_snapshot(provider, past),
            await take_snapshot(provider, await view_everything(provider)),
        )

        assert then.versions == {"Patient/p1": 1, "Patient/p2": 1}
        assert now.versions == {"Patient/p1": 3, "Patient/p2": 3, "Patient/p3": 1}

    @pytest.mark.parametrize("patients", [None, [f"p{number:02}" for number in range(30)]])
    async def test_planning_the_past_covers_the_past(
        self, provider: DataProvider, patients: Sequence[str] | None
    ) -> None:
        """P2: a plan made after later changes still covers the view, even of deleted resources."""
        self.needs(SupportsWrites)
        resources = [patient(f"p{number:02}") for number in range(30)]
        await write(provider, *resources)
        past = await provider.transaction_time()
        await write(provider, *(delete(each) for each in resources))

        snapshot = await take_snapshot(provider, view(past, patients=patients), shard_bytes=900)

        assert snapshot.names == names(*resources)

    async def test_get_shows_the_version_current_at_an_instant(
        self, provider: DataProvider
    ) -> None:
        """P3: before it existed, in between, after its deletion, and now."""
        self.needs(SupportsWrites)
        resource = patient("p1")
        before = await provider.transaction_time()
        first = await stamp_of(provider, resource)
        second = await stamp_of(provider, patient("p1", note="b"))
        third = await stamp_of(provider, delete(resource))

        at = [await get(provider, resource, at=each) for each in (before, first, second, third)]

        assert at[0] is None
        assert [(each.version_id, each.last_updated) for each in at[1:] if each] == [
            (1, first),
            (2, second),
            (3, third),
        ]
        assert at[3] == await get(provider, resource)
        assert at[3] is not None
        assert at[3].content is None

    async def test_missing_ids_are_reported_as_of_an_instant(self, provider: DataProvider) -> None:
        """P3: a deleted resource is missing from then on."""
        self.needs(SupportsWrites)
        await write(provider, patient("p1"))
        past = await provider.transaction_time()
        await write(provider, delete(patient("p1")), patient("p2"))
        ids = ["p1", "p2"]

        then = await provider.missing(corpus.type_key("Patient"), ids, at=past)
        now = await provider.missing(corpus.type_key("Patient"), ids)

        assert (then, now) == ({"p2"}, {"p1"})

    async def test_a_resource_follows_its_references(self, provider: DataProvider) -> None:
        """P4: the compartments of a version are those of its content."""
        self.needs(SupportsWrites)
        await write(provider, observation("o1", "p1"))
        past = await provider.transaction_time()
        await write(provider, observation("o1", "p2"))
        now = await provider.transaction_time()

        shown = [
            (
                await take_snapshot(provider, view(at, request(level=Level.GROUP), patients=[who]))
            ).names
            for at in (past, now)
            for who in ("p1", "p2")
        ]

        assert shown == [["Observation/o1"], [], [], ["Observation/o1"]]

    async def test_since_shows_the_version_current_at_the_transaction_time(
        self, provider: DataProvider
    ) -> None:
        """P3: of several changes since then, only the last."""
        self.needs(SupportsWrites)
        await write(provider, patient("p1"), patient("p2"))
        since = await provider.transaction_time()
        await write(provider, patient("p1", note="b"))
        await write(provider, patient("p1", note="c"))
        now = await provider.transaction_time()
        await write(provider, patient("p1", note="d"), patient("p2", note="d"))

        snapshot = await take_snapshot(provider, view(now, request(since=since)))

        assert snapshot.versions == {"Patient/p1": 3}

    async def test_stamps_do_not_go_back_across_a_restart(self, tmp_path: Path) -> None:
        """P1: the clock is that of the data, and is stored with it."""
        self.needs(SupportsWrites)
        self.needs_persistence()
        async with self.opened(tmp_path) as provider:
            await write(provider, patient("p1"))
            before = await provider.transaction_time()

        async with self.opened(tmp_path) as provider:
            await self.set_clock_back(provider, by=DAY)
            after = await stamp_of(provider, patient("p1", note="b"))

        assert after > before

    async def test_two_providers_on_one_backing_share_a_clock(self, tmp_path: Path) -> None:
        """P1: one process may load while another exports."""
        self.needs(SupportsWrites)
        self.needs_persistence()
        async with self.opened(tmp_path) as one, self.opened(tmp_path) as two:
            await write(one, patient("p1"))
            await self.set_clock_back(one, by=DAY)
            for number in range(25):
                stamp = await stamp_of(one, patient("p1", note=f"{number}"))
                now = await two.transaction_time()
                assert stamp <= now < await stamp_of(one, patient("p2", note=f"{number}"))

    async def test_writers_of_another_process_do_not_disturb_a_read(self, tmp_path: Path) -> None:
        """P1, P3: writes through one provider do not disturb another one on the same data."""
        self.needs(SupportsWrites)
        self.needs_persistence()
        async with self.opened(tmp_path) as one, self.opened(tmp_path) as two:
            await write(one, *mixture(60))
            taken = []
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(_churn(one, "a", rounds=25))
                while not writer.done():
                    everything = await view_everything(two)
                    taken.append(
                        (everything, await take_snapshot(two, everything, batch_bytes=300))
                    )
                    await asyncio.sleep(0)

            for everything, at_the_time in taken:
                assert (await take_snapshot(one, everything)).versions == at_the_time.versions


async def _churn(provider: DataProvider, writer: str, *, rounds: int) -> None:
    """Create, update and delete a few resources over and over; other tasks run in between."""
    for number in range(rounds):
        one, two = patient(f"{writer}{number % 5}"), patient(f"{writer}{number % 3}-x")
        await write(provider, patient(one.id, note=f"{number}"), delete(two))
        await asyncio.sleep(0)
        await write(provider, patient(two.id, note=f"{number}"), delete(one))
