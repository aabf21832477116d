"""SupportsSearch: matches, their order and their pages."""

import msgspec

from helios_core.errors import InvalidParameter
from helios_core.fhir.instants import from_stamp
from helios_core.fhir.search import AllOf, AnyId, UpdatedWithin
from helios_core.memory.data_provider import MemoryDataProvider
from helios_core.storage.data_provider import SearchPage, SortOrder
from tests.testing.on_memory import OnMemoryProvider


class FindsOldVersions(MemoryDataProvider):
    async def search(self, key, query, *, count, after=None):
        page = await super().search(key, query, count=count, after=after)
        versions = self._collections[key].values()
        gone = [v[0].stored for v in versions if v[-1].stored.content is None]
        return msgspec.structs.replace(page, resources=[*page.resources, *gone])


class TestFindsOldVersions(OnMemoryProvider):
    subject_class = FindsOldVersions
    caught_by = ("test_a_search_leaves_out_deleted_and_earlier_versions",)


class FindsNoLastYear(MemoryDataProvider):
    """Dates in the last year have no end that could be indexed."""

    async def search(self, key, query, *, count, after=None):
        page = await super().search(key, query, count=count, after=after)
        if query.filter.passes_everything:
            return page
        ordinary = [each for each in page.resources if b':"9999' not in each.content]
        return msgspec.structs.replace(page, resources=ordinary)


class TestFindsNoLastYear(OnMemoryProvider):
    subject_class = FindsNoLastYear
    caught_by = ("test_a_search_finds_dates_at_the_ends_of_time",)


class SearchesAllTenants(MemoryDataProvider):
    async def search(self, key, query, *, count, after=None):
        found = []
        for other in list(self._collections):
            if other.resource_type == key.resource_type:
                page = await super().search(other, query, count=100)
                found += page.resources
        return SearchPage(resources=found, next=None)


class TestSearchesAllTenants(OnMemoryProvider):
    subject_class = SearchesAllTenants
    caught_by = (
        "test_a_page_begins_behind_any_resource",
        "test_a_search_gives_the_current_resources_of_a_type",
    )


class NeedsSomethingToSearch(MemoryDataProvider):
    """There is nothing to look into before the first resource of a type."""

    async def search(self, key, query, *, count, after=None):
        _ = dict(self._collections)[key]
        return await super().search(key, query, count=count, after=after)


class TestNeedsSomethingToSearch(OnMemoryProvider):
    subject_class = NeedsSomethingToSearch
    caught_by = ("test_a_search_where_nothing_was_stored_is_empty",)


class ForgetsTheContentOfMatches(MemoryDataProvider):
    async def search(self, key, query, *, count, after=None):
        page = await super().search(key, query, count=count, after=after)
        bare = [msgspec.structs.replace(each, content=b"{}") for each in page.resources]
        return msgspec.structs.replace(page, resources=bare)


class TestForgetsTheContentOfMatches(OnMemoryProvider):
    subject_class = ForgetsTheContentOfMatches
    caught_by = ("test_a_search_gives_stored_versions",)


class LosesAMatchPerPage(MemoryDataProvider):
    async def search(self, key, query, *, count, after=None):
        page = await super().search(key, query, count=count, after=after)
        start = 0 if after is None else 1
        return msgspec.structs.replace(page, resources=page.resources[start:])


class TestLosesAMatchPerPage(OnMemoryProvider):
    subject_class = LosesAMatchPerPage
    caught_by = (
        "test_a_page_begins_behind_any_resource",
        "test_pages_cover_the_matches_exactly_once",
    )


class FillsPages(MemoryDataProvider):
    """However large what it finds is."""

    async def search(self, key, query, *, count, after=None):
        query = msgspec.structs.replace(query, max_bytes=1 << 40)
        return await super().search(key, query, count=count, after=after)


class TestFillsPages(OnMemoryProvider):
    subject_class = FillsPages
    caught_by = ("test_a_page_ends_before_it_has_too_many_bytes",)


class LeavesOutWhatIsTooLarge(MemoryDataProvider):
    async def search(self, key, query, *, count, after=None):
        page = await super().search(key, query, count=count, after=after)
        fitting = [each for each in page.resources if len(each.content) <= query.max_bytes]
        return msgspec.structs.replace(page, resources=fitting)


class TestLeavesOutWhatIsTooLarge(OnMemoryProvider):
    subject_class = LeavesOutWhatIsTooLarge
    caught_by = ("test_a_page_ends_before_it_has_too_many_bytes",)


class PagesByOffset(MemoryDataProvider):
    """The next page begins at a number, whatever came or went before it."""

    async def search(self, key, query, *, count, after=None):
        page = await super().search(key, query, count=100_000)
        start = int(after or 0)
        following = str(start + count) if len(page.resources) > start + count else None
        return SearchPage(resources=page.resources[start : start + count], next=following)


class TestPagesByOffset(OnMemoryProvider):
    subject_class = PagesByOffset
    caught_by = (
        "test_a_page_begins_behind_any_resource",
        "test_paging_goes_on_while_resources_come_and_go",
        "test_a_made_up_page_token_is_refused",
    )


class SearchesForAnyId(MemoryDataProvider):
    """Of several `_id` parameters, one has to fit."""

    async def search(self, key, query, *, count, after=None):
        prefilter = query.filter.prefilter()
        if isinstance(prefilter, AllOf) and all(isinstance(p, AnyId) for p in prefilter.parts):
            ids = {each for part in prefilter.parts for each in part.ids}
            query = _answering(query, lambda resource: resource["id"] in ids)
        return await super().search(key, query, count=count, after=after)


def _answering(query, test):
    """The query as a provider sees it that tests something else."""
    condition = msgspec.structs.replace(query.filter.condition, test=test)
    compiled = msgspec.structs.replace(query.filter, condition=condition)
    return msgspec.structs.replace(query, filter=compiled)


class TestSearchesForAnyId(OnMemoryProvider):
    subject_class = SearchesForAnyId
    caught_by = ("test_ids_narrow_a_search",)


class ExcludesBounds(MemoryDataProvider):
    async def search(self, key, query, *, count, after=None):
        page = await super().search(key, query, count=count, after=after)
        bounds = {*_bounds(query.filter.prefilter())}
        inside = [e for e in page.resources if e.last_updated not in bounds]
        return msgspec.structs.replace(page, resources=inside)


def _bounds(prefilter):
    for part in prefilter.parts if isinstance(prefilter, AllOf) else (prefilter,):
        if isinstance(part, UpdatedWithin):
            for bound in (part.since, part.until):
                if bound is not None:
                    yield from_stamp(bound)


class TestExcludesBounds(OnMemoryProvider):
    subject_class = ExcludesBounds
    caught_by = ("test_bounds_narrow_a_search_and_are_inclusive",)


class SearchesWithTheIndexAlone(MemoryDataProvider):
    """What no index can tell is taken to be so."""

    async def search(self, key, query, *, count, after=None):
        if query.filter.prefilter() is None:
            query = _answering(query, lambda _: True)
        return await super().search(key, query, count=count, after=after)


class TestSearchesWithTheIndexAlone(OnMemoryProvider):
    subject_class = SearchesWithTheIndexAlone
    caught_by = (
        "test_a_filter_is_applied_exactly_in_any_order",
        "test_a_search_finds_what_the_evaluator_finds",
        "test_the_total_is_returned_on_request",
    )


class SortsById(MemoryDataProvider):
    """Whatever order is asked for."""

    async def search(self, key, query, *, count, after=None):
        query = msgspec.structs.replace(query, order=SortOrder.ID)
        return await super().search(key, query, count=count, after=after)


class TestSortsById(OnMemoryProvider):
    subject_class = SortsById
    caught_by = (
        "test_a_page_begins_behind_any_resource",
        "test_matches_come_in_the_requested_order",
        "test_a_page_of_another_order_is_refused",
    )


class CountsThePage(MemoryDataProvider):
    async def search(self, key, query, *, count, after=None):
        page = await super().search(key, query, count=count, after=after)
        return msgspec.structs.replace(page, total=len(page.resources))


class TestCountsThePage(OnMemoryProvider):
    subject_class = CountsThePage
    caught_by = ("test_the_total_is_returned_on_request",)


class MakesTokensOfItsOwn(MemoryDataProvider):
    """Only the store that began a search can go on with it."""

    async def search(self, key, query, *, count, after=None):
        if after is not None and (after := after.removeprefix("own:")) == "":
            raise InvalidParameter("no such page")
        page = await super().search(key, query, count=count, after=after)
        following = None if page.next is None else f"own:{page.next}"
        return msgspec.structs.replace(page, next=following)


class TestMakesTokensOfItsOwn(OnMemoryProvider):
    subject_class = MakesTokensOfItsOwn
    caught_by = ("test_a_page_begins_behind_any_resource",)
