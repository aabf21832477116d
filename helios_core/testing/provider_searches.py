"""SupportsSearch: finding resources by id and by when they changed."""

from datetime import datetime, timedelta

import pytest

from helios_core.data_providers import (
    Bound,
    DataProvider,
    Query,
    SupportsSearch,
    SupportsWrites,
)
from helios_core.errors import InvalidParameter
from helios_core.fhir.versions import FHIRVersion
from helios_core.testing import corpus
from helios_core.testing.corpus import organization, patient
from helios_core.testing.provider_contract import DataProviderContract, delete, get, write

ALL = Query(resource_type="Patient")
MICROSECOND = timedelta(microseconds=1)


class SearchClauses(DataProviderContract):
    """The power to search."""

    async def test_a_search_gives_the_current_resources_of_a_type(
        self, provider: DataProvider
    ) -> None:
        """SupportsSearch: of one tenant and one FHIR version."""
        self.needs(SupportsSearch)
        r5 = FHIRVersion.R5
        await self.seed(provider, patient("p1"), patient("p2"), organization("x"))
        await self.seed(provider, patient("p3"), tenant=corpus.OTHER_TENANT)
        await self.seed(provider, patient("p4", fhir_version=r5), fhir_version=r5)

        assert await self._ids(provider, ALL) == ["p1", "p2"]

    async def test_a_search_gives_stored_versions(self, provider: DataProvider) -> None:
        """SupportsSearch: the same as reading each."""
        self.needs(SupportsSearch)
        assert isinstance(provider, SupportsSearch)
        await self.seed(provider, patient("p1"))

        page = await provider.search(corpus.TENANT, corpus.VERSION, ALL, count=10)

        assert list(page.resources) == [await get(provider, patient("p1"))]
        assert page.next is None
        assert page.total in (None, 1)

    async def test_a_search_leaves_out_deleted_and_earlier_versions(
        self, provider: DataProvider
    ) -> None:
        """SupportsSearch: it is about now."""
        self.needs(SupportsSearch)
        self.needs(SupportsWrites)
        await write(provider, patient("p1"), patient("p2"))
        await write(provider, patient("p1", note="b"), delete(patient("p2")))

        assert await self._ids(provider, ALL) == ["p1"]

    @pytest.mark.parametrize("count", [1, 3, 10, 25, 100])
    async def test_pages_cover_the_matches_exactly_once(
        self, provider: DataProvider, count: int
    ) -> None:
        """SupportsSearch: in a stable order, the last page without a next one."""
        self.needs(SupportsSearch)
        await self.seed(provider, *(patient(f"p{number:02}") for number in range(25)))

        pages = await self._pages(provider, ALL, count=count)

        found = [each for page in pages for each in page]
        assert sorted(found) == [f"p{number:02}" for number in range(25)]
        assert all(len(page) == count for page in pages[:-1])
        assert len(pages[-1]) > 0
        assert found == [
            each for page in await self._pages(provider, ALL, count=7) for each in page
        ]

    async def test_paging_goes_on_while_resources_come_and_go(
        self, provider: DataProvider
    ) -> None:
        """SupportsSearch: what neither came nor went is found exactly once."""
        self.needs(SupportsSearch)
        self.needs(SupportsWrites)
        assert isinstance(provider, SupportsSearch)
        staying = [f"p{number:02}" for number in range(0, 40, 2)]
        await write(provider, *map(patient, staying), *(patient(f"gone{n}") for n in range(20)))
        found: list[str] = []
        after = None

        for number in range(100):
            page = await provider.search(corpus.TENANT, corpus.VERSION, ALL, count=3, after=after)
            found += [each.id for each in page.resources]
            await write(provider, patient(f"p{number:02}x"), delete(patient(f"gone{number}")))
            if (after := page.next) is None:
                break

        assert [each for each in found if found.count(each) > 1] == []
        assert {*staying} <= {*found}

    async def test_ids_narrow_a_search(self, provider: DataProvider) -> None:
        """SupportsSearch: one of the ids of a parameter, in every parameter."""
        self.needs(SupportsSearch)
        await self.seed(provider, *(patient(f"p{number}") for number in range(5)))

        one = Query(resource_type="Patient", ids=(("p1", "p3", "p9"),))
        both = Query(resource_type="Patient", ids=(("p1", "p3"), ("p3", "p4")))
        none = Query(resource_type="Patient", ids=(("p1",), ("p2",)))

        found = [await self._ids(provider, query) for query in (one, both, none)]
        assert found == [["p1", "p3"], ["p3"], []]

    async def test_bounds_narrow_a_search_and_are_inclusive(self, provider: DataProvider) -> None:
        """SupportsSearch: a resource's lastUpdated must lie in every one of them."""
        self.needs(SupportsSearch)
        stamps: list[datetime] = []
        for number in range(4):
            await self.seed(provider, patient(f"p{number}"))
            stored = await get(provider, patient(f"p{number}"))
            assert stored is not None
            stamps.append(stored.last_updated)
        low, high = Bound(low=stamps[1]), Bound(high=stamps[2])

        found = [
            await self._ids(provider, Query(resource_type="Patient", last_updated=bounds))
            for bounds in (
                (low,),
                (high,),
                (low, high),
                (Bound(low=stamps[1], high=stamps[1]),),
                (Bound(low=stamps[3] + MICROSECOND),),
                (Bound(low=stamps[2]), Bound(high=stamps[1])),
            )
        ]

        assert found == [
            ["p1", "p2", "p3"],
            ["p0", "p1", "p2"],
            ["p1", "p2"],
            ["p1"],
            [],
            [],
        ]

    async def test_a_page_nobody_gave_is_refused(self, provider: DataProvider) -> None:
        """SupportsSearch: in the client's words, whatever is in the token."""
        self.needs(SupportsSearch)
        assert isinstance(provider, SupportsSearch)
        await self.seed(provider, patient("p1"))

        for made_up in ("", "☃", "!", "a" * 5000, "\x00", "' OR 1=1 --"):
            with pytest.raises(InvalidParameter):
                await provider.search(corpus.TENANT, corpus.VERSION, ALL, count=3, after=made_up)

    async def _ids(self, provider: DataProvider, query: Query) -> list[str]:
        return sorted(each for page in await self._pages(provider, query) for each in page)

    async def _pages(
        self, provider: DataProvider, query: Query, *, count: int = 2
    ) -> list[list[str]]:
        assert isinstance(provider, SupportsSearch)
        pages: list[list[str]] = []
        after = None
        while not pages or after is not None:
            page = await provider.search(
                corpus.TENANT, corpus.VERSION, query, count=count, after=after
            )
            pages.append([each.id for each in page.resources])
            after = page.next
        return pages
