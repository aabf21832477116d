"""Sorted pages where an index helps: little is read, and nothing is lost if that changes."""

from functools import partial

import pytest

from helios_core.fhir.search import compile_query
from helios_core.fhir.search.sorting import parse_sort
from helios_core.interactions import sorting
from helios_core.interactions.sorting import sorted_page
from helios_core.storage.data_provider import Delete, SearchQuery
from helios_core.storage.resource_keys import TypeKey

NUMBER = 400


def encounter(number):
    return {
        "resourceType": "Encounter",
        "id": f"e{number * 7919 % NUMBER:03}",
        "status": "finished",
        "period": {"start": f"{1600 + number}"},
    }


@pytest.fixture
async def find(provider, caller, store, monkeypatch):
    monkeypatch.setattr(sorting, "PAGE_SIZE", 20)
    monkeypatch.setattr(sorting, "SAMPLE_SIZE", 20)
    await store(*map(encounter, range(NUMBER)))
    return partial(provider.search, TypeKey.of(caller, "Encounter"))


@pytest.fixture
def page(caller):
    query = SearchQuery(filter=compile_query(caller.fhir_version, "Encounter", []))

    async def page(find, text, *, count=3, after=None):
        sort = parse_sort(caller.fhir_version, "Encounter", text)
        return await sorted_page(find, query, sort, count=count, after=after)

    return page


def years(found):
    return [int(stored.content.partition(b'"start":"')[2][:4]) for stored in found.resources]


@pytest.mark.parametrize("text", ["date", "-date", "date,-_id"])
async def test_a_page_is_found_without_reading_everything(find, page, text):
    read = []

    async def counting(query, *, count, after=None):
        found = await find(query, count=count, after=after)
        read.append(len(found.resources))
        return found

    first = await page(counting, text)
    second = await page(counting, text, after=first.next)

    expected = [1600 + number for number in range(6)]
    descending = [2000 - 1 - number for number in range(6)]
    assert years(first) + years(second) == (descending if text == "-date" else expected)
    assert sum(read) < NUMBER
    assert first.total is None


async def test_matches_that_one_request_finds_are_read_once(find, page, monkeypatch):
    monkeypatch.setattr(sorting, "PAGE_SIZE", NUMBER)
    monkeypatch.setattr(sorting, "SAMPLE_SIZE", NUMBER)
    read = []

    async def counting(query, *, count, after=None):
        found = await find(query, count=count, after=after)
        read.append(len(found.resources))
        return found

    first = await page(counting, "-date")

    assert years(first) == [1999, 1998, 1997]
    assert read == [NUMBER]


@pytest.mark.parametrize("text", ["date", "-date"])
async def test_what_disappears_while_a_page_is_looked_for_hides_nothing(
    find, page, text, provider, caller
):
    async def deleting(query, *, count, after=None):
        """Delete what is found, for as long as not everything is read."""
        found = await find(query, count=count, after=after)
        if found.next is not None and not deleted:
            deleted.update(stored.id for stored in found.resources)
            changes = [Delete(resource_type="Encounter", id=each) for each in deleted]
            await provider.write(caller.tenant, caller.fhir_version, changes)
        return found

    deleted = set()
    found, after = [], None
    while after is not None or not found:
        following = await page(deleting, text, count=30, after=after)
        found += [stored.id for stored in following.resources]
        after = following.next

    assert deleted
    remaining = {encounter(number)["id"] for number in range(NUMBER)} - deleted
    assert sorted(found) == sorted(remaining)
