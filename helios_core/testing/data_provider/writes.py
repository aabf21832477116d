"""SupportsWrites and SupportsHistory: what a write does, and the versions it leaves."""

import asyncio

import pytest

from helios_core import (
    ChangeResult,
    DataProvider,
    SupportsHistory,
    SupportsWrites,
    VersionConflict,
)
from helios_core.fhir import FHIRVersion
from helios_core.testing import corpus
from helios_core.testing.corpus import organization, patient
from helios_core.testing.data_provider.contract import (
    DataProviderContract,
    delete,
    get,
    names,
    put,
    stamp_of,
    view_everything,
    write,
)
from helios_core.testing.snapshots import take_snapshot


class WriteClauses(DataProviderContract):
    """The power to write."""

    async def test_a_write_reports_each_change(self, provider: DataProvider) -> None:
        """SupportsWrites: in order, with the version now current."""
        self.needs(SupportsWrites)
        await write(provider, patient("updated"), patient("same"), patient("deleted"))

        applied = await write(
            provider,
            patient("created"),
            patient("updated", note="b"),
            patient("same"),
            delete(patient("deleted")),
            delete(patient("absent")),
        )

        assert [(each.outcome, each.version_id) for each in applied] == [
            (ChangeResult.CREATED, 1),
            (ChangeResult.UPDATED, 2),
            (ChangeResult.UNCHANGED, 1),
            (ChangeResult.DELETED, 2),
            (ChangeResult.ABSENT, 0),
        ]
        assert applied[-1].last_updated is None

    async def test_what_is_written_is_what_is_stored(self, provider: DataProvider) -> None:
        """SupportsWrites: checked without the provider."""
        self.needs(SupportsWrites)
        await write(provider, patient("p1"), patient("p2"), organization("x"))
        await write(provider, patient("p1", note="b"), delete(patient("p2")))

        current = await self.raw_current(provider, corpus.TENANT, corpus.VERSION)

        assert dict(current) == {"Patient/p1": 2, "Organization/x": 1}

    async def test_an_unchanged_resource_makes_no_new_version(
        self, provider: DataProvider
    ) -> None:
        """SupportsWrites: loading the same files again changes nothing."""
        self.needs(SupportsWrites)
        stamp = await stamp_of(provider, patient("p1"))

        [again] = await write(provider, patient("p1"))

        assert (again.outcome, again.version_id) == (ChangeResult.UNCHANGED, 1)
        assert again.last_updated == stamp
        assert dict(await self._raw(provider)) == {"Patient/p1": 1}

    async def test_a_deleted_resource_can_be_written_again(self, provider: DataProvider) -> None:
        """SupportsWrites: with the content it had; its versions continue."""
        self.needs(SupportsWrites)
        await write(provider, patient("p1"))
        await write(provider, delete(patient("p1")))

        [again] = await write(provider, patient("p1"))

        assert (again.outcome, again.version_id) == (ChangeResult.CREATED, 3)
        assert dict(await self._raw(provider)) == {"Patient/p1": 3}

    async def test_a_resource_cannot_be_deleted_twice(self, provider: DataProvider) -> None:
        """SupportsWrites: the second deletion finds nothing and adds no version."""
        self.needs(SupportsWrites)
        await write(provider, patient("p1"))
        await write(provider, delete(patient("p1")))

        [again] = await write(provider, delete(patient("p1")))

        stored = await get(provider, patient("p1"))
        assert again.outcome is ChangeResult.ABSENT
        assert stored is not None
        assert (stored.version_id, stored.content) == (2, None)

    async def test_all_changes_of_a_write_carry_one_instant(self, provider: DataProvider) -> None:
        """SupportsWrites: no export can show half of a transaction."""
        self.needs(SupportsWrites)
        await write(provider, patient("p0"))

        applied = await write(
            provider, *(patient(f"p{n}", note="b") for n in range(20)), delete(patient("p0"))
        )

        assert len({each.last_updated for each in applied}) == 1

    async def test_a_write_is_seen_whole_or_not_at_all(self, provider: DataProvider) -> None:
        """SupportsWrites, P1: also by a transaction time taken while it happens."""
        self.needs(SupportsWrites)

        async def rewrite() -> None:
            for number in range(20):
                await write(provider, *(patient(f"p{n}", note=f"{number}") for n in range(10)))

        shown = []
        async with asyncio.TaskGroup() as group:
            writer = group.create_task(rewrite())
            while not writer.done():
                shown.append(
                    (await take_snapshot(provider, await view_everything(provider))).versions
                )
                await asyncio.sleep(0)

        assert {len(versions) for versions in shown} <= {0, 10}
        assert all(len(set(versions.values())) <= 1 for versions in shown)

    async def test_a_resource_twice_in_one_write_is_applied_twice(
        self, provider: DataProvider
    ) -> None:
        """SupportsWrites: in order, and an export shows the last."""
        self.needs(SupportsWrites)

        applied = await write(
            provider, patient("p1"), patient("p1", note="b"), patient("p1", note="b")
        )

        snapshot = await take_snapshot(provider, await view_everything(provider))
        assert [(each.outcome, each.version_id) for each in applied] == [
            (ChangeResult.CREATED, 1),
            (ChangeResult.UPDATED, 2),
            (ChangeResult.UNCHANGED, 2),
        ]
        assert (snapshot.versions, len(snapshot.lines)) == ({"Patient/p1": 2}, 1)

    async def test_a_resource_written_and_deleted_at_once_is_not_shown(
        self, provider: DataProvider
    ) -> None:
        """SupportsWrites: the last change of one instant counts."""
        self.needs(SupportsWrites)

        applied = await write(provider, patient("p1"), delete(patient("p1")), patient("p2"))

        snapshot = await take_snapshot(provider, await view_everything(provider))
        assert [each.outcome for each in applied[:2]] == [
            ChangeResult.CREATED,
            ChangeResult.DELETED,
        ]
        assert snapshot.names == ["Patient/p2"]

    async def test_the_version_named_must_be_current(self, provider: DataProvider) -> None:
        """SupportsWrites: otherwise the update or deletion is refused."""
        self.needs(SupportsWrites)
        await write(provider, patient("p1"))
        await write(provider, patient("p1", note="b"))

        for stale in (put(patient("p1", note="c"), if_match=1), delete(patient("p1"), if_match=1)):
            with pytest.raises(VersionConflict):
                await write(provider, stale)
        [updated] = await write(provider, put(patient("p1", note="c"), if_match=2))
        [deleted] = await write(provider, delete(patient("p1"), if_match=3))

        assert (updated.version_id, deleted.version_id) == (3, 4)

    async def test_a_version_of_what_is_not_there_cannot_be_named(
        self, provider: DataProvider
    ) -> None:
        """SupportsWrites: an update that expects a version creates nothing."""
        self.needs(SupportsWrites)

        with pytest.raises(VersionConflict):
            await write(provider, put(patient("p1"), if_match=1))

        assert dict(await self._raw(provider)) == {}

    async def test_a_conflict_changes_nothing(self, provider: DataProvider) -> None:
        """SupportsWrites: not even the changes before it."""
        self.needs(SupportsWrites)
        await write(provider, patient("p1"), patient("p2"))
        before = await take_snapshot(provider, await view_everything(provider))

        with pytest.raises(VersionConflict):
            await write(
                provider,
                patient("new"),
                patient("p1", note="b"),
                delete(patient("p2")),
                put(patient("p1", note="c"), if_match=9),
            )

        assert dict(await self._raw(provider)) == {"Patient/p1": 1, "Patient/p2": 1}
        assert (
            await take_snapshot(provider, await view_everything(provider))
        ).lines == before.lines

    async def test_of_two_writers_with_one_version_one_wins(self, provider: DataProvider) -> None:
        """SupportsWrites: no update is lost."""
        self.needs(SupportsWrites)
        await write(provider, patient("p1"))
        puts = (put(patient("p1", note=f"{number}"), if_match=1) for number in range(10))

        results = await asyncio.gather(
            *(write(provider, each) for each in puts), return_exceptions=True
        )

        lost = [result for result in results if isinstance(result, BaseException)]
        assert {type(error) for error in lost} == {VersionConflict}
        assert len(lost) == 9
        assert dict(await self._raw(provider)) == {"Patient/p1": 2}

    async def test_of_writers_that_expect_nothing_to_be_there_one_wins(
        self, provider: DataProvider
    ) -> None:
        """SupportsWrites: version 0 means that there never was one, for conditional creates."""
        self.needs(SupportsWrites)
        puts = (put(patient("p1", note=f"{number}"), if_match=0) for number in range(10))

        results = await asyncio.gather(
            *(write(provider, each) for each in puts), return_exceptions=True
        )

        lost = [result for result in results if isinstance(result, BaseException)]
        assert {type(error) for error in lost} == {VersionConflict}
        assert len(lost) == 9
        assert dict(await self._raw(provider)) == {"Patient/p1": 1}

    async def test_concurrent_writers_lose_nothing(self, provider: DataProvider) -> None:
        """SupportsWrites: every version has a number and an instant of its own."""
        self.needs(SupportsWrites)

        async with asyncio.TaskGroup() as group:
            writes = [
                group.create_task(write(provider, patient("p1", note=f"{n}"), patient(f"o{n}")))
                for n in range(30)
            ]

        applied = [task.result()[0] for task in writes]
        assert sorted(each.version_id for each in applied) == list(range(1, 31))
        assert len({each.last_updated for each in applied}) == 30
        assert len(await self._raw(provider)) == 31

    async def test_writing_nothing_is_fine(self, provider: DataProvider) -> None:
        """SupportsWrites: an empty transaction is valid."""
        self.needs(SupportsWrites)

        assert await write(provider) == []

    async def test_many_changes_fit_in_one_write(self, provider: DataProvider) -> None:
        """SupportsWrites: a loader sends thousands at a time."""
        self.needs(SupportsWrites)
        many = [patient(f"p{number}") for number in range(3000)]

        applied = await write(provider, *many)

        snapshot = await take_snapshot(provider, await view_everything(provider))
        assert {each.outcome for each in applied} == {ChangeResult.CREATED}
        assert snapshot.names == names(*many)

    async def test_a_write_stays_in_its_tenant_and_version(self, provider: DataProvider) -> None:
        """P7: the same id elsewhere is another resource."""
        self.needs(SupportsWrites)
        r5 = FHIRVersion.R5
        await write(provider, patient("p1"))

        [elsewhere] = await write(provider, patient("p1"), tenant=corpus.OTHER_TENANT)
        [later] = await write(provider, patient("p1", fhir_version=r5), fhir_version=r5)
        await write(provider, delete(patient("p1")), tenant=corpus.OTHER_TENANT)

        assert (elsewhere.outcome, later.outcome) == (ChangeResult.CREATED, ChangeResult.CREATED)
        assert dict(await self._raw(provider)) == {"Patient/p1": 1}
        assert dict(await self.raw_current(provider, corpus.OTHER_TENANT, corpus.VERSION)) == {}

    async def test_versions_can_be_read(self, provider: DataProvider) -> None:
        """SupportsHistory: each as it was, deletions without content."""
        self.needs(SupportsWrites)
        self.needs(SupportsHistory)
        assert isinstance(provider, SupportsHistory)
        first = await stamp_of(provider, patient("p1"))
        second = await stamp_of(provider, delete(patient("p1")))
        key = corpus.type_key("Patient").resource("p1")

        found = [await provider.get_version(key, version_id) for version_id in (0, 1, 2, 3)]

        assert (found[0], found[3]) == (None, None)
        assert [(each.last_updated, each.content) for each in found if each] == [
            (first, patient("p1").stamped(1, first)),
            (second, None),
        ]

    async def test_the_history_is_paged_from_the_newest(self, provider: DataProvider) -> None:
        """SupportsHistory: at most `count`, below `before`, of one resource only."""
        self.needs(SupportsWrites)
        self.needs(SupportsHistory)
        assert isinstance(provider, SupportsHistory)
        for number in range(7):
            await write(provider, patient("p1", note=f"{number}"), patient(f"o{number}"))
        await write(provider, patient("p1"), tenant=corpus.OTHER_TENANT)
        await write(provider, delete(patient("p1")))
        key = corpus.type_key("Patient").resource("p1")

        first = await provider.history(key, count=3)
        second = await provider.history(key, count=3, before=first[-1].version_id)
        third = await provider.history(key, count=3, before=second[-1].version_id)

        pages = [[each.version_id for each in page] for page in (first, second, third)]
        assert pages == [[8, 7, 6], [5, 4, 3], [2, 1]]
        assert first[0].content is None
        assert second[0] == await provider.get_version(key, 5)
        assert await provider.history(key, count=3, before=1) == []

    async def test_what_was_never_there_has_no_history(self, provider: DataProvider) -> None:
        """SupportsHistory, P7: nor does what is only in another tenant."""
        self.needs(SupportsWrites)
        self.needs(SupportsHistory)
        assert isinstance(provider, SupportsHistory)
        await write(provider, patient("p1"), tenant=corpus.OTHER_TENANT)
        key = corpus.type_key("Patient").resource("p1")

        assert await provider.history(key, count=10) == []
        assert await provider.get_version(key, 1) is None

    async def _raw(self, provider: DataProvider) -> dict[str, int]:
        return dict(await self.raw_current(provider, corpus.TENANT, corpus.VERSION))
