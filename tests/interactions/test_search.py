import threading

import msgspec
import pytest

from helios_core.errors import InvalidParameter, UnsupportedParameter
from helios_core.fhir.search import Lookup
from helios_core.interactions import includes
from helios_core.interactions.parameters import MAX_COUNT
from helios_core.interactions.search import search_type
from helios_core.interactions.search_parameters import parse_search
from helios_core.storage.data_provider import PAGE_BYTES
from helios_core.storage.threads import LARGE_BYTES

ORGANIZATION = {"resourceType": "Organization", "id": "o", "name": "Grey", "active": True}


def patient(number):
    return {
        "resourceType": "Patient",
        "id": f"p{number}",
        "active": True,
        "gender": "female",
        "managingOrganization": {"reference": "Organization/o"},
    }


@pytest.fixture
def search(provider, caller, store):
    async def search(*pairs, lenient=False):
        await store(ORGANIZATION, *(patient(number) for number in range(3)))
        parsed = parse_search(caller, "Patient", pairs, lenient=lenient)
        return await search_type(provider, caller, parsed, max_bytes=PAGE_BYTES)

    return search


def ids(resources):
    return [stored.id for stored in resources]


async def test_a_page_has_its_matches_and_the_way_to_the_next(search):
    first = await search(("_count", "2"))
    last = await search(("_count", "2"), ("_after", first.next))

    assert (ids(first.matches), ids(last.matches)) == (["p0", "p1"], ["p2"])
    assert (first.total, last.next, last.total) == (3, None, 3)
    assert last.search.parameters == (("_count", "2"),)


@pytest.mark.parametrize(
    "pairs", [[("_summary", "count")], [("_count", "0")], [("_summary", "count"), ("_count", "2")]]
)
async def test_a_search_for_the_total_returns_no_resources(search, pairs):
    result = await search(*pairs)

    assert (result.total, ids(result.matches), result.next) == (3, [], None)


async def test_the_total_is_known_if_it_costs_nothing(search):
    assert (await search()).total == 3
    assert (await search(("gender", "female"))).total == 3
    assert (await search(("gender", "female"), ("_count", "1"))).total is None
    assert (await search(("_total", "none"))).total is None
    assert (await search(("_count", "1"), ("_total", "accurate"))).total == 3


async def test_elements_are_those_of_the_matches_unless_they_name_a_type(search):
    result = await search(
        ("_elements", "gender,Organization.name"), ("_include", "Patient:organization")
    )

    [organization] = [msgspec.json.decode(stored.content) for stored in result.included]
    match = msgspec.json.decode(result.matches[0].content)
    assert set(match) == {"resourceType", "id", "meta", "gender"}
    assert set(organization) == {"resourceType", "id", "meta", "name"}
    assert match["meta"]["tag"][0]["code"] == "SUBSETTED"


async def test_a_page_reports_that_it_leaves_out_includes(search, monkeypatch):
    assert ids((await search(("_include", "Patient:organization"))).included) == ["o"]
    monkeypatch.setattr(includes, "MAX_INCLUDED", 0)

    result = await search(("_include", "Patient:organization"))

    assert (ids(result.included), [each.code for each in result.remarks]) == ([], ["incomplete"])


async def test_a_lenient_search_reports_what_it_ignored(search):
    result = await search(("bogus", "1"), ("gender", "female"), lenient=True)

    assert [each.code for each in result.remarks] == ["not-supported"]
    assert "bogus" in result.remarks[0].text
    assert result.search.parameters == (("gender", "female"),)
    with pytest.raises(UnsupportedParameter):
        await search(("bogus", "1"))


@pytest.mark.parametrize(
    ("pair", "error"),
    [
        (("_count", "x"), InvalidParameter),
        (("_sort", "bogus"), UnsupportedParameter),
        (("_summary", "some"), UnsupportedParameter),
        (("_total", "some"), UnsupportedParameter),
        (("_elements", "bogus"), InvalidParameter),
        (("birthdate", "x"), InvalidParameter),
        (("_contained", "true"), UnsupportedParameter),
    ],
)
def test_values_that_mean_nothing_are_refused(caller, pair, error):
    with pytest.raises(error):
        parse_search(caller, "Patient", [pair], lenient=False)


def test_a_page_has_a_maximum_size(caller):
    search = parse_search(caller, "Patient", [("_count", "5000")], lenient=False)

    assert search.count == MAX_COUNT
    assert search.parameters == (("_count", str(MAX_COUNT)),)


async def test_a_chain_reads_large_resources_beside_the_event_loop(
    provider, caller, store, monkeypatch
):
    threads = set()
    ids_in = Lookup.ids_in

    def noting(lookup, line):
        threads.add(threading.get_ident())
        return ids_in(lookup, line)

    monkeypatch.setattr(Lookup, "ids_in", noting)
    await store(ORGANIZATION | {"alias": ["x" * LARGE_BYTES]}, patient(1))
    parsed = parse_search(caller, "Patient", [("organization.name", "Grey")], lenient=False)

    result = await search_type(provider, caller, parsed, max_bytes=PAGE_BYTES)

    assert ids(result.matches) == ["p1"]
    assert threads
    assert threading.get_ident() not in threads
