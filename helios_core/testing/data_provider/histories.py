"""SupportsTypeHistory and SupportsChangeFeed: versions by their instants, and collections."""

from datetime import datetime, timedelta

import pytest

from helios_core import (
    DataProvider,
    InvalidParameter,
    StoredVersion,
    SupportsChangeFeed,
    SupportsTypeHistory,
    SupportsWrites,
    TypeKey,
    VersionQuery,
)
from helios_core.fhir import FHIRVersion
from helios_core.testing import corpus
from helios_core.testing.corpus import observation, organization, patient
from helios_core.testing.data_provider.contract import (
    DataProviderContract,
    delete,
    stamp_of,
    write,
)

BOTH = ("Observation", "Patient")
MICROSECOND = timedelta(microseconds=1)


class HistoryClauses(DataProviderContract):
    """The power to list the versions of types."""

    async def test_all_versions_are_listed_newest_first(self, provider: DataProvider) -> None:
        """SupportsTypeHistory: of these types only, as they were, deletions without content."""
        self._needs_histories()
        first = await stamp_of(provider, patient("p1"), organization("x"))
        second = await stamp_of(provider, patient("p2"))
        third = await stamp_of(provider, observation("o", "p1"))
        fourth = await stamp_of(provider, patient("p1", note="b"))
        fifth = await stamp_of(provider, delete(patient("p2")))

        found = await self._listed(provider, BOTH)

        assert [(each.resource_type, each.id, each.version_id) for each in found] == [
            ("Patient", "p2", 2),
            ("Patient", "p1", 2),
            ("Observation", "o", 1),
            ("Patient", "p2", 1),
            ("Patient", "p1", 1),
        ]
        instants = [fifth, fourth, third, second, first]
        assert [each.last_updated for each in found] == instants
        assert found[0].content is None
        assert found[1].content == patient("p1", note="b").stamped(2, fourth)
        assert found[-1].content == patient("p1").stamped(1, first)

    async def test_of_one_instant_the_later_version_comes_first(
        self, provider: DataProvider
    ) -> None:
        """SupportsTypeHistory: and everything written at once is listed."""
        self._needs_histories()
        others = [patient(f"o{number}") for number in range(20)]
        await write(provider, patient("a"), *others, patient("a", note="b"), delete(patient("a")))

        for count in (1, 7, 100):
            found = await self._listed(provider, BOTH, count=count)

            assert len({(each.id, each.version_id) for each in found}) == len(found) == 23
            assert [each.version_id for each in found if each.id == "a"] == [3, 2, 1]

    @pytest.mark.parametrize("count", [1, 2, 5])
    async def test_pages_of_versions_are_stable_while_others_write(
        self, provider: DataProvider, count: int
    ) -> None:
        """SupportsTypeHistory: each version once, and nothing newer than the settled instant."""
        self._needs_histories()
        assert isinstance(provider, SupportsTypeHistory)
        for number in range(4):
            await write(provider, patient("p", note=f"{number}"), observation(f"o{number}", "p"))
        query = await self._query(provider, BOTH)
        expected = await self._listed(provider, BOTH, until=query.until)

        found, after = list[StoredVersion](), None
        for number in range(2 * len(expected)):
            page = await provider.versions(query, count=count, after=after)
            assert len(page.versions) <= count
            found += page.versions
            after = page.next
            if after is None:
                break
            await write(provider, patient("p", note=f"later {number}"), patient(f"new{number}"))
            await write(provider, delete(observation(f"o{number % 4}", "p")))

        assert found == expected
        assert len(found) == 8

    async def test_the_versions_of_a_period_are_listed(self, provider: DataProvider) -> None:
        """SupportsTypeHistory: `since` and `until` are inclusive."""
        self._needs_histories()
        stamps = [await stamp_of(provider, patient(f"p{number}")) for number in range(4)]

        async def ids(since: datetime | None, until: datetime) -> list[str]:
            found = await self._listed(provider, BOTH, since=since, until=until)
            return [each.id for each in found]

        assert await ids(None, stamps[2]) == ["p2", "p1", "p0"]
        assert await ids(None, stamps[2] - MICROSECOND) == ["p1", "p0"]
        assert await ids(stamps[1], stamps[2]) == ["p2", "p1"]
        assert await ids(stamps[1] + MICROSECOND, stamps[3]) == ["p3", "p2"]
        assert await ids(stamps[2], stamps[1]) == []

    async def test_the_versions_that_were_current_are_listed(self, provider: DataProvider) -> None:
        """SupportsTypeHistory: `current_from` leaves out what had ended by then."""
        self._needs_histories()
        await write(provider, patient("kept"), patient("changed"), patient("deleted"))
        await write(provider, patient("gone"))
        await write(provider, delete(patient("gone")))
        at = await stamp_of(provider, patient("changed", note="b"))
        later = await stamp_of(provider, delete(patient("deleted")))
        await write(provider, patient("kept", note="c"))

        async def found(current_from: datetime, until: datetime) -> list[tuple[str, int]]:
            listed = await self._listed(provider, BOTH, until=until, current_from=current_from)
            return sorted((each.id, each.version_id) for each in listed)

        assert await found(at, at) == [("changed", 2), ("deleted", 1), ("kept", 1)]
        assert await found(at - MICROSECOND, at) == [
            ("changed", 1),
            ("changed", 2),
            ("deleted", 1),
            ("kept", 1),
        ]
        assert await found(later, later) == [("changed", 2), ("deleted", 2), ("kept", 1)]

    async def test_the_versions_of_others_are_not_listed(self, provider: DataProvider) -> None:
        """SupportsTypeHistory, P7: neither of another tenant nor of another FHIR version."""
        self._needs_histories()
        await write(provider, patient("p"), tenant=corpus.OTHER_TENANT)
        await write(
            provider, patient("p", fhir_version=FHIRVersion.R5), fhir_version=FHIRVersion.R5
        )

        assert await self._listed(provider, BOTH) == []
        assert await self._listed(provider, ()) == []

    async def test_a_made_up_page_of_versions_is_refused(self, provider: DataProvider) -> None:
        """SupportsTypeHistory: as an error of the client; and tokens contain no ids."""
        self._needs_histories()
        assert isinstance(provider, SupportsTypeHistory)
        await write(provider, patient("telling-1"), patient("telling-2"))
        query = await self._query(provider, BOTH)

        page = await provider.versions(query, count=1)

        assert page.next is not None
        assert "telling" not in page.next
        for made_up in ("", "☃", "!", "a" * 5000, "\x00", "at:1", "at:1:" + "9" * 19, "at:x:1"):
            with pytest.raises(InvalidParameter):
                await provider.versions(query, count=1, after=made_up)

    async def test_a_change_feed_names_every_collection_that_was_written(
        self, provider: DataProvider
    ) -> None:
        """SupportsChangeFeed: of all tenants and versions, even if all was deleted again."""
        self.needs(SupportsChangeFeed)
        assert isinstance(provider, SupportsChangeFeed)
        r5 = FHIRVersion.R5
        await write(provider, patient("p"), observation("o"))
        await write(provider, delete(patient("p")))
        await write(provider, patient("p"), tenant=corpus.OTHER_TENANT)
        await write(provider, patient("p", fhir_version=r5), fhir_version=r5)

        listed = await provider.collections()

        assert {
            TypeKey(corpus.TENANT, corpus.VERSION, "Patient"),
            TypeKey(corpus.TENANT, corpus.VERSION, "Observation"),
            TypeKey(corpus.OTHER_TENANT, corpus.VERSION, "Patient"),
            TypeKey(corpus.TENANT, r5, "Patient"),
        } <= set(listed)

    def _needs_histories(self) -> None:
        self.needs(SupportsWrites)
        self.needs(SupportsTypeHistory)

    async def _query(
        self, provider: DataProvider, types: tuple[str, ...], **period: datetime | None
    ) -> VersionQuery:
        return VersionQuery(
            tenant=corpus.TENANT,
            fhir_version=corpus.VERSION,
            types=types,
            until=period.get("until") or await provider.transaction_time(),
            since=period.get("since"),
            current_from=period.get("current_from"),
        )

    async def _listed(
        self,
        provider: DataProvider,
        types: tuple[str, ...],
        *,
        count: int = 100,
        **period: datetime | None,
    ) -> list[StoredVersion]:
        assert isinstance(provider, SupportsTypeHistory)
        query = await self._query(provider, types, **period)
        found, after = list[StoredVersion](), None
        while True:
            page = await provider.versions(query, count=count, after=after)
            found += page.versions
            after = page.next
            if after is None:
                return found
