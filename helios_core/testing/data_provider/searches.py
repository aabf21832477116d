"""SupportsSearch: matches, their order and their pages."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
import pytest

from helios_core import (
    DataProvider,
    InvalidParameter,
    SearchQuery,
    SortOrder,
    StoredVersion,
    SupportsSearch,
    SupportsWrites,
    make_page_token,
)
from helios_core.fhir import FHIRVersion, compile_query, format_instant
from helios_core.testing import corpus
from helios_core.testing.corpus import organization, patient
from helios_core.testing.data_provider.contract import DataProviderContract, delete, get, write
from helios_core.testing.data_provider.prefilters import (
    SEARCHES,
    SEARCHES_AT_THE_ENDS,
    compile_searches,
    measurements,
    measurements_at_the_ends,
)

PATIENTS = corpus.type_key("Patient")
ORDERS = [*SortOrder]
MICROSECOND = timedelta(microseconds=1)


def query(
    *pairs: tuple[str, str],
    resource_type: str = "Patient",
    order: SortOrder = SortOrder.ID,
    total: bool = False,
) -> SearchQuery:
    """Return the search for resources that match all of these pairs."""
    compiled = compile_query(corpus.VERSION, resource_type, pairs)
    return SearchQuery(filter=compiled, order=order, total=total)


ALL = query()


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

    @pytest.mark.parametrize("order", ORDERS)
    async def test_a_search_where_nothing_was_stored_is_empty(
        self, provider: DataProvider, order: SortOrder
    ) -> None:
        """SupportsSearch: with or without a filter that an index helps with."""
        self.needs(SupportsSearch)
        assert isinstance(provider, SupportsSearch)

        for pairs in ((), (("_id", "p1"),), (("name", "odd"),), (("identifier", "x"),)):
            asked = query(*pairs, order=order, total=True)
            page = await provider.search(PATIENTS, asked, count=10)
            assert ([*page.resources], page.next, page.total) == ([], None, 0)

    async def test_a_search_gives_stored_versions(self, provider: DataProvider) -> None:
        """SupportsSearch: the same as reading each."""
        self.needs(SupportsSearch)
        assert isinstance(provider, SupportsSearch)
        await self.seed(provider, patient("p1"))

        page = await provider.search(PATIENTS, ALL, count=10)

        assert list(page.resources) == [await get(provider, patient("p1"))]
        assert page.next is None
        assert page.total is None

    async def test_a_search_leaves_out_deleted_and_earlier_versions(
        self, provider: DataProvider
    ) -> None:
        """SupportsSearch: only current resources match."""
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

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("fitting", [0, 1, 3])
    async def test_a_page_ends_before_it_has_too_many_bytes(
        self, provider: DataProvider, order: SortOrder, fitting: int
    ) -> None:
        """SupportsSearch: at least one match is on a page, and none is lost between two."""
        self.needs(SupportsSearch)
        ids = [f"p{number:02}" for number in range(8)]
        await self.seed(provider, *map(patient, ids))
        [stored, *_] = await self._found(provider, query(("_id", "p00")))
        # Resources differ in length by the digits of their instants.
        max_bytes = int(fitting * len(stored.content or b"") * 1.2)

        unbounded = query(order=order)
        bounded = msgspec.structs.replace(unbounded, max_bytes=max_bytes)
        pages = await self._pages(provider, bounded, count=100)

        assert {len(page) for page in pages[:-1]} == {max(fitting, 1)}
        found = [each for page in pages for each in page]
        assert found == [each.id for each in await self._found(provider, unbounded)]

    async def test_paging_goes_on_while_resources_come_and_go(
        self, provider: DataProvider
    ) -> None:
        """SupportsSearch: resources that neither come nor go are found exactly once."""
        self.needs(SupportsSearch)
        self.needs(SupportsWrites)
        assert isinstance(provider, SupportsSearch)
        staying = [f"p{number:02}" for number in range(0, 40, 2)]
        await write(provider, *map(patient, staying), *(patient(f"gone{n}") for n in range(20)))
        found: list[str] = []
        after = None

        for number in range(100):
            page = await provider.search(PATIENTS, ALL, count=3, after=after)
            found += [each.id for each in page.resources]
            await write(provider, patient(f"p{number:02}x"), delete(patient(f"gone{number}")))
            if (after := page.next) is None:
                break

        assert [each for each in found if found.count(each) > 1] == []
        assert {*staying} <= {*found}

    async def test_ids_narrow_a_search(self, provider: DataProvider) -> None:
        """SupportsSearch: a match has one of the ids of each `_id` parameter."""
        self.needs(SupportsSearch)
        await self.seed(provider, *(patient(f"p{number}") for number in range(5)))

        one = query(("_id", "p1,p3,p9"))
        both = query(("_id", "p1,p3"), ("_id", "p3,p4"))
        none = query(("_id", "p1"), ("_id", "p2"))

        found = [await self._ids(provider, asked) for asked in (one, both, none)]
        assert found == [["p1", "p3"], ["p3"], []]

    async def test_bounds_narrow_a_search_and_are_inclusive(self, provider: DataProvider) -> None:
        """SupportsSearch: a resource's lastUpdated must lie in every one of them."""
        self.needs(SupportsSearch)
        stamps = [format_instant(stored.last_updated) for stored in await self._aged(provider, 4)]
        later = format_instant(datetime.fromisoformat(stamps[3]) + MICROSECOND)

        found = [
            await self._ids(provider, query(*(("_lastUpdated", bound) for bound in bounds)))
            for bounds in (
                ("ge" + stamps[1],),
                ("le" + stamps[2],),
                ("ge" + stamps[1], "le" + stamps[2]),
                (stamps[1],),
                ("ge" + later,),
                ("ge" + stamps[2], "le" + stamps[1]),
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

    @pytest.mark.parametrize("count", [1, 4, 100])
    @pytest.mark.parametrize("order", ORDERS)
    async def test_matches_come_in_the_requested_order(
        self, provider: DataProvider, order: SortOrder, count: int
    ) -> None:
        """SupportsSearch: page by page, and by id where the instant is the same."""
        self.needs(SupportsSearch)
        for batch in ("dgbz", "hfax", "c"):
            await self.seed(provider, *map(patient, batch))

        pages = await self._pages(provider, query(order=order), count=count)

        expected = {
            SortOrder.ID: "abcdfghxz",
            SortOrder.ID_DESCENDING: "zxhgfdcba",
            SortOrder.LAST_UPDATED: "bdgzafhxc",
            SortOrder.LAST_UPDATED_DESCENDING: "cafhxbdgz",
        }
        assert "".join(each for page in pages for each in page) == expected[order]

    @pytest.mark.parametrize("order", ORDERS)
    async def test_a_filter_is_applied_exactly_in_any_order(
        self, provider: DataProvider, order: SortOrder
    ) -> None:
        """SupportsSearch: whether an index helps with it or not."""
        self.needs(SupportsSearch)
        notes = [f"{'odd' if number % 2 else 'even'} {number}" for number in range(20)]
        await self.seed(
            provider, *(patient(f"p{n:02}", note=note) for n, note in enumerate(notes))
        )

        asked = query(("name", "odd"), order=order)
        pages = await self._pages(provider, asked, count=3)

        odd = [f"p{number:02}" for number in range(1, 20, 2)]
        found = [each for page in pages for each in page]
        assert found == (odd[::-1] if order is SortOrder.ID_DESCENDING else odd)

    @pytest.mark.parametrize("order", ORDERS)
    async def test_a_search_finds_what_the_evaluator_finds(
        self, provider: DataProvider, order: SortOrder
    ) -> None:
        """P5, SupportsSearch: whatever part of the result comes from an index."""
        self.needs(SupportsSearch)
        await self.seed(provider, *measurements(), patient("p1"))
        stored = await self._found(provider, query(resource_type="Observation", order=order))

        for alternatives in SEARCHES:
            condition = compile_searches(alternatives)
            found = await self._found(provider, SearchQuery(filter=condition, order=order))
            assert found == [each for each in stored if condition.matches(each.content or b"")]

    async def test_a_search_finds_dates_at_the_ends_of_time(self, provider: DataProvider) -> None:
        """P5, SupportsSearch: as the evaluator does, with every prefix."""
        self.needs(SupportsSearch)
        await self.seed(provider, *measurements_at_the_ends())
        stored = await self._found(provider, query(resource_type="Observation"))

        for alternatives in SEARCHES_AT_THE_ENDS:
            condition = compile_searches(alternatives)
            found = await self._found(provider, SearchQuery(filter=condition))
            assert found == [each for each in stored if condition.matches(each.content or b"")]

    @pytest.mark.parametrize(
        ("pairs", "expected"),
        [((), 25), ((("name", "odd"),), 12), ((("_id", "p03,p04"),), 2), ((("_id", "x"),), 0)],
    )
    @pytest.mark.parametrize("count", [1, 30])
    async def test_the_total_is_returned_on_request(
        self,
        provider: DataProvider,
        pairs: Sequence[tuple[str, str]],
        expected: int,
        count: int,
    ) -> None:
        """SupportsSearch: each page has the total of all pages."""
        self.needs(SupportsSearch)
        assert isinstance(provider, SupportsSearch)
        notes = ("even", "odd") * 13
        resources = [patient(f"p{n:02}", note=note) for n, note in enumerate(notes[:25])]
        await self.seed(provider, *resources, organization("x"))

        asked = query(*pairs, total=True)
        page = await provider.search(PATIENTS, asked, count=count)

        assert page.total == expected
        if_cheap = msgspec.structs.replace(asked, total=None)
        page = await provider.search(PATIENTS, if_cheap, count=count)
        assert page.total in {None, expected}

    @pytest.mark.parametrize("order", ORDERS)
    async def test_a_page_begins_behind_any_resource(
        self, provider: DataProvider, order: SortOrder
    ) -> None:
        """SupportsSearch: by its `make_page_token`, which is the same in every store."""
        self.needs(SupportsSearch)
        assert isinstance(provider, SupportsSearch)
        await self.seed(provider, *(patient(f"a{number}") for number in range(3)))
        await self.seed(provider, *(patient(f"b{number}") for number in range(3)))
        everything = (await provider.search(PATIENTS, query(order=order), count=10)).resources

        pages = [
            await provider.search(
                PATIENTS, query(order=order), count=2, after=make_page_token(each, order)
            )
            for each in everything
        ]

        ids = [stored.id for stored in everything]
        assert [[each.id for each in page.resources] for page in pages] == [
            ids[start : start + 2] for start in range(1, 7)
        ]
        assert [page.next for page in pages] == [
            *(make_page_token(page.resources[-1], order) for page in pages[:3]),
            *(None,) * 3,
        ]

    async def test_a_page_of_another_order_is_refused(self, provider: DataProvider) -> None:
        """SupportsSearch: a position in one order means nothing in another."""
        self.needs(SupportsSearch)
        assert isinstance(provider, SupportsSearch)
        await self._aged(provider, 3)

        for order in ORDERS:
            page = await provider.search(PATIENTS, query(order=order), count=1)
            for other in {*ORDERS} - {order}:
                with pytest.raises(InvalidParameter):
                    await provider.search(PATIENTS, query(order=other), count=1, after=page.next)

    async def test_a_made_up_page_token_is_refused(self, provider: DataProvider) -> None:
        """SupportsSearch: as an error of the client, whatever is in the token."""
        self.needs(SupportsSearch)
        assert isinstance(provider, SupportsSearch)
        await self.seed(provider, patient("p1"))

        for made_up in ("", "☃", "!", "a" * 5000, "\x00", "' OR 1=1 --"):
            with pytest.raises(InvalidParameter):
                await provider.search(PATIENTS, ALL, count=3, after=made_up)

    async def _aged(self, provider: DataProvider, count: int) -> list[StoredVersion]:
        """Store patients one after the other, and return their stored versions."""
        found: list[StoredVersion] = []
        for number in range(count):
            await self.seed(provider, patient(f"p{number}"))
            stored = await get(provider, patient(f"p{number}"))
            assert stored is not None
            found.append(stored)
        return found

    async def _found(self, provider: DataProvider, query: SearchQuery) -> list[StoredVersion]:
        assert isinstance(provider, SupportsSearch)
        key = corpus.type_key(query.filter.resource_type)
        page = await provider.search(key, query, count=1000)
        return list(page.resources)

    async def _ids(self, provider: DataProvider, query: SearchQuery) -> list[str]:
        return sorted(each for page in await self._pages(provider, query) for each in page)

    async def _pages(
        self, provider: DataProvider, query: SearchQuery, *, count: int = 2
    ) -> list[list[str]]:
        assert isinstance(provider, SupportsSearch)
        pages: list[list[str]] = []
        after = None
        while not pages or after is not None:
            key = corpus.type_key(query.filter.resource_type)
            page = await provider.search(key, query, count=count, after=after)
            pages.append([each.id for each in page.resources])
            after = page.next
        return pages
