"""Clause P8: what is told of resources that are asked for by their ids."""

import msgspec
from msgspec.structs import replace

from helios_core import Cohort, DataProvider, ExportView, Level
from helios_core.testing import corpus
from helios_core.testing.corpus import observation, patient, request, view
from helios_core.testing.data_provider.contract import DataProviderContract, everything_now

ABSENT = "absent"
OBSERVATIONS = corpus.type_key("Observation")


class LookupClauses(DataProviderContract):
    """Asking for many at once."""

    async def test_ids_are_told_apart_by_who_they_are_about(self, provider: DataProvider) -> None:
        """P8: `among` follows the level and the cohort, and knows nothing of what is not there."""
        await self.seed(
            provider,
            patient("a"),
            observation("of-a", "a"),
            observation("of-a-and-b", "b", "a"),
            observation("of-b", "b"),
            observation("of-nobody"),
        )
        everything = await everything_now(provider)
        ids = ["of-a", "of-a-and-b", "of-b", "of-nobody", ABSENT, "a"]
        patients = replace(everything, request=replace(everything.request, level=Level.PATIENT))
        cohort = Cohort(key="a", patients=frozenset({"a"}))

        assert await provider.among(everything, "Observation", ids) == set(ids[:4])
        assert await provider.among(patients, "Observation", ids) == set(ids[:3])
        of_cohort = replace(patients, cohort=cohort)
        assert await provider.among(of_cohort, "Observation", ids) == set(ids[:2])
        assert await provider.among(everything, "Patient", ids) == {"a"}
        assert await provider.among(everything, "Encounter", ids) == set()

    async def test_ids_are_told_apart_by_when_they_changed(self, provider: DataProvider) -> None:
        """P8: `among` follows `since`, `until` and the transaction time."""
        await self.seed(provider, observation("before"))
        since = await provider.transaction_time()
        await self.seed(provider, observation("between"))
        now = await provider.transaction_time()
        await self.seed(provider, observation("after"))
        ids = ["before", "between", "after"]

        async def shown(of: ExportView) -> set[str]:
            return await provider.among(of, "Observation", ids)

        assert await shown(view(now, request())) == {"before", "between"}
        assert await shown(view(now, request(since=since))) == {"between"}
        assert await shown(view(now, request(until=since))) <= {"before"}

    async def test_resources_are_fetched_as_they_were(self, provider: DataProvider) -> None:
        """P8: `fetch` gives the lines of an instant, and nothing of what was not there then."""
        await self.seed(provider, observation("a"), observation("b"))
        now = await provider.transaction_time()
        await self.seed(provider, observation("later"))
        shown = await provider.get(OBSERVATIONS.resource("a"), at=now)
        assert shown is not None

        batch = await provider.fetch(OBSERVATIONS, ["a", "later", ABSENT], at=now)

        assert batch.lines == [shown.content]
        assert not batch.damaged

    async def test_ids_of_another_tenant_are_not_known(self, provider: DataProvider) -> None:
        """P7, P8: neither `among` nor `fetch` looks into another tenant or FHIR version."""
        await self.seed(provider, observation("a"), tenant=corpus.OTHER_TENANT)
        everything = await everything_now(provider)
        at = everything.transaction_time

        batch = await provider.fetch(OBSERVATIONS, ["a"], at=at)

        assert list(batch.lines) == []
        assert await provider.among(everything, "Observation", ["a"]) == set()

    async def test_many_ids_are_asked_for_in_one_go(self, provider: DataProvider) -> None:
        """P8: a thousand ids are no more than one."""
        resources = [observation(f"o{number}") for number in range(1000)]
        await self.seed(provider, *resources)
        everything = await everything_now(provider)
        ids = [each.id for each in resources]

        batch = await provider.fetch(OBSERVATIONS, ids, at=everything.transaction_time)

        assert {msgspec.json.decode(line)["id"] for line in batch.lines} == set(ids)
        assert await provider.among(everything, "Observation", ids) == set(ids)
