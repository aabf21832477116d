"""Sorted pages of an index are those of the core, and little is read for them."""

import random
from functools import partial
from itertools import product

import msgspec
import pytest

from helios_core.fhir.resources import parse_resource
from helios_core.fhir.search import compile_query
from helios_core.fhir.search.sorting import parse_sort
from helios_core.interactions.search import search_type
from helios_core.interactions.search_parameters import parse_search
from helios_core.interactions.sorting import sorted_page
from helios_core.storage.data_provider import Delete, Put, SearchQuery
from helios_core.storage.index_notes import ENTRIES_VERSION
from helios_core.storage.ordered_search import SupportsFirstMatches
from helios_core.storage.permitted_reads import nothing_of, permitted_reads
from helios_core.storage.resource_keys import TypeKey
from helios_core.storage.search_index import Dataset
from tests.storage.indexed import Following

NUMBER = 120
SORTS = ("date", "-date", "location-period", "-location-period", "-date,status", "date,_id")
STATUSES = ("planned", "finished", "arrived")
FINISHED = [("status", "finished")]


def encounter(chance, number):
    """An encounter with few dates, some of several kinds and some without."""
    period = {"start": f"20{chance.randrange(10, 20)}"}
    if chance.random() < 0.5:
        period["end"] = f"20{chance.randrange(20, 23)}"
    places = [{"period": {"end": f"20{chance.randrange(10, 30)}"}} for _ in range(number % 4)]
    own = {"period": period} if chance.random() < 0.8 else {}
    return {
        "resourceType": "Encounter",
        "id": f"e{number}",
        "status": chance.choice(STATUSES),
        "location": places,
        **own,
    }


@pytest.fixture
def following(provider):
    return Following(provider)


@pytest.fixture
def key(caller):
    return TypeKey.of(caller, "Encounter")


@pytest.fixture
def chance():
    return random.Random(1)


@pytest.fixture
async def stored(provider, caller, chance, following):
    """Encounters of which the index has most, and of which some have changed since."""

    def put(number):
        return Put(
            resource=parse_resource(
                msgspec.json.encode(encounter(chance, number)), caller.fhir_version
            )
        )

    write = partial(provider.write, caller.tenant, caller.fhir_version)
    await write([put(number) for number in range(NUMBER)])
    await following.follow()
    changed = chance.sample(range(NUMBER + 10), 20)
    await write([put(number) for number in changed])
    await write([Delete(resource_type="Encounter", id=f"e{number}") for number in changed[:5]])


@pytest.fixture
def all_pages(caller, key):
    async def all_pages(provider, text, *, count, criteria=(), total=False):
        """Read all pages, by the index alone if there is one."""
        by_index = isinstance(provider, SupportsFirstMatches)
        sort = parse_sort(caller.fhir_version, "Encounter", text)
        filter_ = compile_query(caller.fhir_version, "Encounter", criteria)
        query = SearchQuery(filter=filter_, total=total)
        pages, after = [], None
        while True:
            page = await sorted_page(
                left_to_the_core if by_index else partial(provider.search, key),
                query,
                sort,
                count=count,
                after=after,
                find_first=partial(provider.first_matches, key) if by_index else None,
            )
            pages.append(page)
            after = page.next
            if after is None:
                return pages

    return all_pages


async def left_to_the_core(*_args, **_options):
    raise AssertionError("the index was not enough")


@pytest.mark.parametrize("text", SORTS)
@pytest.mark.usefixtures("stored")
async def test_the_pages_of_an_index_are_those_of_the_core(following, provider, all_pages, text):
    for count, criteria in product((1, 7, 200), ((), FINISHED, [("date", "ge2015")])):
        expected = await all_pages(provider, text, count=count, criteria=criteria)

        found = await all_pages(following.provider, text, count=count, criteria=criteria)

        assert [page.resources for page in found] == [page.resources for page in expected]
        assert [page.next for page in found] == [page.next for page in expected]


@pytest.mark.usefixtures("stored")
async def test_the_total_is_that_of_all_matches(following, provider, all_pages):
    (expected,) = await all_pages(provider, "date", count=200, criteria=FINISHED, total=True)

    (page,) = await all_pages(following.provider, "date", count=200, criteria=FINISHED, total=True)

    assert page.total == expected.total == len(page.resources)


@pytest.mark.usefixtures("stored")
async def test_a_page_ends_before_it_is_too_large(following, caller, key):
    sort = parse_sort(caller.fhir_version, "Encounter", "date")
    filter_ = compile_query(caller.fhir_version, "Encounter", [])
    whole = await sorted_page(
        left_to_the_core,
        SearchQuery(filter=filter_),
        sort,
        count=12,
        after=None,
        find_first=partial(following.provider.first_matches, key),
    )
    size = sum(len(each.content) for each in whole.resources[:4])

    page = await sorted_page(
        partial(following.provider.search, key),
        SearchQuery(filter=filter_, max_bytes=size),
        sort,
        count=12,
        after=None,
        find_first=partial(following.provider.first_matches, key),
    )

    assert page.resources == whole.resources[:4]
    assert page.next is not None


@pytest.fixture
def read(provider):
    """The ids of what is fetched."""
    read = []
    fetch = provider.fetch

    async def noted(key, ids, *, at):
        read.extend(ids)
        return await fetch(key, ids, at=at)

    provider.fetch = noted
    return read


@pytest.mark.usefixtures("stored")
async def test_little_more_than_the_page_is_read(following, caller, read):
    await following.follow()
    for text in ("date", "-date"):
        pairs = [("_sort", text), ("_count", "10")]
        search = parse_search(caller, "Encounter", pairs, lenient=False)

        result = await search_type(following.provider, caller, search, max_bytes=1 << 30)

        assert len(result.matches) == 10
        assert 10 < len(read) <= 20
        read.clear()


@pytest.mark.usefixtures("stored")
async def test_an_index_without_values_is_not_asked_for_an_order(following, caller, key):
    dataset = Dataset(caller.tenant, caller.fhir_version)
    before = await following.index.state(dataset)
    epoch = f"{ENTRIES_VERSION - 1}-without-values"
    await following.index.reset(dataset, epoch, expected=before.epoch)
    await following.index.advance(dataset, epoch, reached=before.reached)
    sort = parse_sort(caller.fhir_version, "Encounter", "date")
    query = SearchQuery(filter=compile_query(caller.fhir_version, "Encounter", []))

    first = following.provider.first_matches
    assert await first(key, query, sort.value_order, count=9, after=None) is None
    search = parse_search(caller, "Encounter", [("_sort", "date"), ("_count", "9")], lenient=False)
    result = await search_type(following.provider, caller, search, max_bytes=1 << 30)
    assert len(result.matches) == 9


@pytest.mark.usefixtures("stored")
async def test_only_what_is_permitted_is_on_a_page(following, provider, caller, all_pages):
    def finished(_key, _letters):
        return compile_query(caller.fhir_version, "Encounter", FINISHED)

    limited = permitted_reads(following.provider, finished, "rs")

    found = await all_pages(limited, "-date", count=7)

    expected = await all_pages(provider, "-date", count=7, criteria=FINISHED)
    assert [page.resources for page in found] == [page.resources for page in expected]


@pytest.mark.usefixtures("stored")
async def test_nothing_is_on_a_page_where_nothing_is_permitted(following, all_pages):
    limited = permitted_reads(following.provider, lambda *_: nothing_of("Encounter"), "rs")

    (page,) = await all_pages(limited, "-date", count=7)

    assert page.resources == []
