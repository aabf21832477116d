"""Clause P8: lookups of resources by their ids."""

import msgspec
import pytest

from helios_core import BackendError, DataProvider, ExportView, Level, TypeKey
from helios_core.testing.data_provider.contract import DataProviderContract
from helios_core.testing.data_provider.holdings import Sample

ABSENT = "absent"


class LookupClauses(DataProviderContract):
    """Lookups of many ids at once."""

    async def test_ids_are_told_apart_by_who_they_are_about(self, provider: DataProvider) -> None:
        """P8: `among` respects the level and the cohort, and leaves out absent ids."""
        self.needs_type("Patient")
        samples = self.levels()
        await self.insert(provider, *samples)
        everything = await self.view(provider)
        patients = await self.view(provider, self.request(level=Level.PATIENT))
        cohort = await self.view(provider, self.request(level=Level.GROUP), patients=["p1"])
        member = self.id("p1")

        for resource_type in self.holdings.types:
            of_type = [sample for sample in samples if sample.resource_type == resource_type]
            ids = [*(sample.id for sample in samples), self.id(ABSENT), "no-such.id"]

            async def shown(view: ExportView, name: str = resource_type) -> set[str]:
                return await provider.among(view, name, ids)  # noqa: B023 - called at once

            assert await shown(everything) == {sample.id for sample in of_type}
            assert await shown(patients) == {each.id for each in of_type if each.patients}
            assert await shown(cohort) == {each.id for each in of_type if member in each.patients}
        assert await provider.among(everything, "Basic", [samples[0].id]) == set()

    async def test_ids_are_told_apart_by_when_they_changed(self, provider: DataProvider) -> None:
        """P8: `among` respects `since`, `until` and the transaction time."""
        before, between = self.one_of_each("before"), self.one_of_each("between")
        await self.insert(provider, *before)
        since = await provider.transaction_time()
        await self.insert(provider, *between)
        now = await self.view(provider)
        news = await self.view(provider, self.request(since=since))
        olds = await self.view(provider, self.request(until=since))
        if self.holdings.keeps_past:
            await self.insert(provider, *self.one_of_each("after"))
        ids = self.ids("before", "between", "after")

        for name in self.holdings.types:
            assert await provider.among(now, name, ids) == {*ids[:2]}
            if self.holdings.stamps_rows:
                assert await provider.among(news, name, ids) == {ids[1]}
            assert await provider.among(olds, name, ids) <= {ids[0]}

    async def test_resources_are_fetched_as_they_were(self, provider: DataProvider) -> None:
        """P8: `fetch` returns the lines of an instant, and nothing that did not exist then."""
        samples = self.one_of_each("a")
        await self.insert(provider, *samples, *self.one_of_each("b"))
        now = await provider.transaction_time()
        if self.holdings.keeps_past:
            await self.insert(provider, *self.one_of_each("later"))

        for sample in samples:
            key, (b, *others) = self.key(sample.resource_type), self.ids("b", "later", ABSENT)
            stored = [await provider.get(key.resource(each), at=now) for each in (b, sample.id)]
            batch = await provider.fetch(key, [*others, b, sample.id, "no-such.id"], at=now)

            assert batch.lines == [each.content for each in stored if each is not None]
            assert len(batch.lines) == 2
            assert not batch.damaged

    async def test_ids_of_another_tenant_are_not_known(self, provider: DataProvider) -> None:
        """P7, P8: neither `among` nor `fetch` looks into another tenant or FHIR version."""
        sample, holdings = self.anything("a"), self.holdings
        await self.insert(provider, sample)

        for tenant, version in (
            (holdings.other_tenant, holdings.fhir_version),
            (holdings.tenant, holdings.other_version),
        ):
            key = TypeKey(tenant, version, sample.resource_type)
            request = self.request(tenant=tenant, fhir_version=version)
            elsewhere = await self.view(provider, request)
            batch = await provider.fetch(key, [sample.id], at=elsewhere.transaction_time)

            assert list(batch.lines) == []
            assert await provider.among(elsewhere, sample.resource_type, [sample.id]) == set()

    async def test_many_ids_are_looked_up_in_one_go(self, provider: DataProvider) -> None:
        """P8: a thousand ids work like one."""
        samples: list[Sample] = [self.anything(f"o{number}") for number in range(1000)]
        await self.insert(provider, *samples)
        everything = await self.view(provider)
        key, ids = self.key(samples[0].resource_type), [sample.id for sample in samples]

        batch = await provider.fetch(key, ids, at=everything.transaction_time)

        assert [msgspec.json.decode(line)["id"] for line in batch.lines] == ids
        assert await provider.among(everything, key.resource_type, ids) == set(ids)
        assert await provider.missing(key, ids) == set()

    async def test_a_damaged_resource_is_reported_by_its_id(self, provider: DataProvider) -> None:
        """P6, P8: `get` raises; `fetch` reports the damaged resource and returns the others."""
        good, spoilt = self.anything("a", note="secret"), self.anything("b", note="secret")
        await self.insert(provider, good, spoilt)
        await self.damage(provider, spoilt.resource_type, spoilt.id)
        at = await provider.transaction_time()

        batch = await provider.fetch(self.key(good.resource_type), [spoilt.id, good.id], at=at)

        assert len(batch.lines) == 1
        assert [report.id for report in batch.damaged] == [spoilt.id]
        assert "secret" not in batch.damaged[0].reason
        assert await provider.missing(self.key(good.resource_type), [spoilt.id]) == set()
        with pytest.raises(BackendError, match=r"(?s)^(?!.*secret)"):
            await provider.get(self.key(good.resource_type).resource(spoilt.id))
