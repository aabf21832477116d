"""SupportsTombstones: the deletions that an incremental export reports."""

import asyncio
import random
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import cycle
from pathlib import Path

import pytest

from helios_core import DataProvider, Level, SupportsTombstones, SupportsWrites
from helios_core.testing import corpus
from helios_core.testing.corpus import observation, organization, patient, request, view
from helios_core.testing.data_provider.contract import Change, DataProviderContract, delete, write
from helios_core.testing.snapshots import Snapshot, deleted_in, take_snapshot


class TombstoneClauses(DataProviderContract):
    """The power to remember deletions; the tests need the power to write too."""

    async def test_deletions_since_are_named(self, provider: DataProvider) -> None:
        """SupportsTombstones: those after the instant, and none before or at it."""
        self._needs_tombstones()
        await write(provider, *(patient(f"p{number}") for number in range(4)))
        await write(provider, delete(patient("p0")))
        [at] = await write(provider, delete(patient("p1")))
        await write(provider, delete(patient("p2")))
        now = await provider.transaction_time()

        snapshot = await take_snapshot(provider, view(now, request(since=at.last_updated)))

        assert (snapshot.deleted, snapshot.names) == (["Patient/p2"], [])

    async def test_without_since_nothing_is_named(self, provider: DataProvider) -> None:
        """SupportsTombstones: a first export has nothing to remove."""
        self._needs_tombstones()
        await write(provider, patient("p1"), patient("p2"))
        await write(provider, delete(patient("p1")))

        snapshot = await take_snapshot(provider, view(await provider.transaction_time()))

        assert (snapshot.deleted, snapshot.names) == ([], ["Patient/p2"])

    async def test_deletions_after_the_transaction_time_are_not_named(
        self, provider: DataProvider
    ) -> None:
        """SupportsTombstones, P3: the next export names them."""
        self._needs_tombstones()
        since = await provider.transaction_time()
        await write(provider, patient("p1"))
        now = await provider.transaction_time()
        await write(provider, delete(patient("p1")))

        snapshot = await take_snapshot(provider, view(now, request(since=since)))

        assert (snapshot.deleted, snapshot.names) == ([], ["Patient/p1"])

    async def test_deletions_at_or_after_until_are_not_named(self, provider: DataProvider) -> None:
        """SupportsTombstones: a deletion is a change, and `until` is exclusive."""
        self._needs_tombstones()
        await write(provider, *(patient(f"p{number}") for number in range(3)))
        since = await provider.transaction_time()
        await write(provider, delete(patient("p0")))
        [at] = await write(provider, delete(patient("p1")))
        await write(provider, delete(patient("p2")))
        now = await provider.transaction_time()

        snapshot = await take_snapshot(
            provider, view(now, request(since=since, until=at.last_updated))
        )

        assert snapshot.deleted == ["Patient/p0"]

    async def test_what_was_written_again_is_not_named(self, provider: DataProvider) -> None:
        """SupportsTombstones: it is in the output only."""
        self._needs_tombstones()
        await write(provider, patient("p1"))
        since = await provider.transaction_time()
        await write(provider, delete(patient("p1")))
        await write(provider, patient("p1"))
        now = await provider.transaction_time()

        snapshot = await take_snapshot(provider, view(now, request(since=since)))

        assert (snapshot.deleted, snapshot.versions) == ([], {"Patient/p1": 3})

    async def test_deletions_are_named_by_level(self, provider: DataProvider) -> None:
        """SupportsTombstones: only resources that the view would have shown before."""
        self._needs_tombstones()
        resources = [
            *(patient("p1"), patient("p2"), observation("o1", "p1"), observation("o2", "p2")),
            *(observation("o-both", "p1", "p2"), observation("o-none"), organization("x")),
        ]
        await write(provider, *resources)
        since = await provider.transaction_time()
        await write(provider, *map(delete, resources))
        now = await provider.transaction_time()
        group = request(since=since, level=Level.GROUP)

        system = await take_snapshot(provider, view(now, request(since=since)))
        patients = await take_snapshot(
            provider, view(now, request(since=since, level=Level.PATIENT))
        )
        cohort = await take_snapshot(provider, view(now, group, patients=["p1"]))

        outside = ["Observation/o-none", "Organization/x"]
        everything = sorted(map(corpus.name, resources))
        assert system.deleted == everything
        assert patients.deleted == [name for name in everything if name not in outside]
        assert cohort.deleted == ["Observation/o-both", "Observation/o1", "Patient/p1"]

    async def test_deletions_stay_in_their_tenant(self, provider: DataProvider) -> None:
        """SupportsTombstones, P7: a deletion in another tenant concerns no other one."""
        self._needs_tombstones()
        await write(provider, patient("p1"))
        await write(provider, patient("p1"), tenant=corpus.OTHER_TENANT)
        since = await provider.transaction_time()
        await write(provider, delete(patient("p1")), tenant=corpus.OTHER_TENANT)
        now = await provider.transaction_time()

        ours = await take_snapshot(provider, view(now, request(since=since)))
        other = request(since=since, tenant=corpus.OTHER_TENANT)
        theirs = await take_snapshot(provider, view(now, other))

        assert (ours.deleted, theirs.deleted) == ([], ["Patient/p1"])

    @pytest.mark.parametrize("shard_bytes", [1, 2000, 1_000_000_000])
    async def test_shards_cover_deletions_exactly_once(
        self, provider: DataProvider, shard_bytes: int
    ) -> None:
        """SupportsTombstones, P2: also for types that have nothing but deletions left."""
        self._needs_tombstones()
        gone = [patient(f"p{number:02}") for number in range(20)]
        await write(provider, *gone, *(organization(f"x{n}") for n in range(20)))
        since = await provider.transaction_time()
        await write(provider, *map(delete, gone))
        await write(provider, *(organization(f"x{n}", note="b") for n in range(0, 20, 2)))
        await write(provider, *(delete(organization(f"x{n}")) for n in range(1, 20, 2)))
        incremental = view(await provider.transaction_time(), request(since=since))

        snapshot = await take_snapshot(provider, incremental, shard_bytes=shard_bytes)

        lost = [f"Organization/x{n}" for n in range(1, 20, 2)]
        assert snapshot.deleted == sorted([*lost, *map(corpus.name, gone)])
        assert snapshot.names == [f"Organization/x{n}" for n in sorted(map(str, range(0, 20, 2)))]

    async def test_deletions_come_in_rows_of_limited_number(self, provider: DataProvider) -> None:
        """SupportsTombstones: memory grows with the batch, and reading again returns the same."""
        self._needs_tombstones()
        assert isinstance(provider, SupportsTombstones)
        gone = [patient(f"p{number:02}") for number in range(20)]
        await write(provider, *gone)
        since = await provider.transaction_time()
        await write(provider, *map(delete, gone))
        incremental = view(await provider.transaction_time(), request(since=since))
        [shard] = await provider.plan(incremental, shard_bytes=1_000_000)

        rows = [len(ids) async for ids in provider.read_deleted(incremental, shard, batch_rows=3)]

        once = await deleted_in(provider, incremental, shard, batch_rows=7)
        assert (max(rows), sum(rows)) == (3, 20)
        assert once == await deleted_in(provider, incremental, shard, batch_rows=2)

    async def test_deletions_while_reading_are_not_named(self, provider: DataProvider) -> None:
        """SupportsTombstones, P3: between two batches everything may change."""
        self._needs_tombstones()
        assert isinstance(provider, SupportsTombstones)
        resources = [patient(f"p{number:02}") for number in range(20)]
        await write(provider, *resources)
        since = await provider.transaction_time()
        await write(provider, *(delete(each) for each in resources[::2]))
        incremental = view(await provider.transaction_time(), request(since=since))
        found: list[str] = []

        for shard in await provider.plan(incremental, shard_bytes=1000):
            async for ids in provider.read_deleted(incremental, shard, batch_rows=1):
                found += ids
                again = [patient(each.id, note=f"{len(found)}") for each in resources[::2]]
                await write(provider, *again, *(delete(each) for each in resources[1::2]))

        assert sorted(found) == [each.id for each in resources[::2]]

    @pytest.mark.parametrize("level", [Level.SYSTEM, Level.PATIENT])
    async def test_chained_exports_rebuild_the_final_state(
        self, provider: DataProvider, level: Level
    ) -> None:
        """
        P1, P3, SupportsTombstones: with concurrent writers nothing is lost or left over.

        Each export begins where the one before it ended; its output and its deletions, replayed
        in order, must result in what is stored in the end.
        """
        self._needs_tombstones()
        copy: dict[str, int] = {}
        since = None

        async with asyncio.TaskGroup() as group:
            for seed in range(3):
                group.create_task(_edit(provider, seed=seed))
            for _ in range(30):
                await asyncio.sleep(0)
                now = await provider.transaction_time()
                next_view = view(now, request(level=level, since=since, types=("Patient",)))
                _replay(await take_snapshot(provider, next_view, shard_bytes=2000), copy)
                since = now

        now = await provider.transaction_time()
        last = view(now, request(level=level, since=since, types=("Patient",)))
        _replay(await take_snapshot(provider, last), copy)
        assert copy == await self.raw_current(provider, corpus.TENANT, corpus.VERSION)

    async def test_chained_exports_over_providers_that_write_at_once_lose_nothing(
        self, tmp_path: Path
    ) -> None:
        """P1, P3, SupportsTombstones: as above, with several providers that write and export."""
        self._needs_tombstones()
        self.needs_persistence()
        copy: dict[str, int] = {}
        since, taken = None, list[tuple[datetime, dict[str, int]]]()

        async with AsyncExitStack() as stack:
            providers = [await stack.enter_async_context(self.opened(tmp_path)) for _ in range(3)]
            async with asyncio.TaskGroup() as group:
                writers = [
                    group.create_task(_edit(provider, seed=seed, writes=25))
                    for seed, provider in enumerate(providers)
                ]
                for reader in cycle(providers):
                    over = all(writer.done() for writer in writers)
                    now = await reader.transaction_time()
                    next_view = view(now, request(since=since, types=("Patient",)))
                    _replay(await take_snapshot(reader, next_view, shard_bytes=2000), copy)
                    taken.append((now, dict(copy)))
                    since = now
                    await asyncio.sleep(0)
                    if over:
                        break

            assert copy == await self.raw_current(providers[0], corpus.TENANT, corpus.VERSION)
            for instant, then in taken:
                whole = view(instant, request(types=("Patient",)))
                assert (await take_snapshot(providers[0], whole)).versions == then

    def _needs_tombstones(self) -> None:
        self.needs(SupportsWrites)
        self.needs(SupportsTombstones)


def _replay(snapshot: Snapshot, copy: dict[str, int]) -> None:
    assert not snapshot.repeats
    assert not {*snapshot.names} & {*snapshot.deleted}
    copy.update(snapshot.versions)
    for name in snapshot.deleted:
        copy.pop(name, None)


async def _edit(provider: DataProvider, *, seed: int, writes: int = 60) -> None:
    """Write and delete a few patients that others write and delete too."""
    choice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    for number in range(writes):
        ids = choice.sample(range(30), k=3)
        changes: list[Change] = [patient(f"p{each}", note=f"{seed}-{number}") for each in ids]
        if choice.random() < 0.5:
            changes[0] = delete(patient(f"p{ids[0]}"))
        await write(provider, *changes)
        await asyncio.sleep(0)
