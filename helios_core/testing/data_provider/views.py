"""Clauses P1, P3, P4 and P7: what a view shows."""

import asyncio
from collections.abc import Collection
from datetime import datetime

import pytest

from helios_core import (
    BackendError,
    DataProvider,
    Level,
    Shard,
    TypeKey,
)
from helios_core.fhir import parse_instant
from helios_core.testing.data_provider.contract import (
    DataProviderContract,
    names,
)
from helios_core.testing.data_provider.holdings import Sample
from helios_core.testing.snapshots import read_batches, take_snapshot


class ViewClauses(DataProviderContract):
    """Levels, cohorts, tenants and instants."""

    async def test_the_system_level_shows_every_resource(self, provider: DataProvider) -> None:
        """P3: in a compartment or not."""
        self.needs_type("Patient")
        samples = self.levels()
        await self.insert(provider, *samples)

        snapshot = await take_snapshot(provider, await self.view(provider))

        assert snapshot.names == names(*samples)

    async def test_the_patient_level_shows_the_compartments(self, provider: DataProvider) -> None:
        """P3: and nothing else; a resource in two compartments appears once."""
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
        """P3: such bounds leave nothing out."""
        samples = self.mixture(12)
        await self.insert(provider, *samples)
        since = parse_instant("0001-01-01T00:00:00+14:00") if bound == "since" else None
        until = parse_instant("9999-12-31T23:59:59-05:00") if bound == "until" else None

        bounded = await self.view(provider, self.request(since=since, until=until))

        assert (await take_snapshot(provider, bounded)).names == names(*samples)

    async def test_another_tenant_is_never_shown(self, provider: DataProvider) -> None:
        """P7: whether it uses the same ids or has no resources."""
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
        """P1: what is not committed yet gets a later instant."""
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
