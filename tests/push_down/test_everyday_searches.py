"""What everyday clients search for: every provider returns the same, in the same order."""

import random
from itertools import chain

import msgspec
import pytest

from helios_core.errors import InvalidParameter, TooCostly
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.resources import parse_resource
from helios_core.fhir.search.sorting import sortable
from helios_core.interactions import includes, sorting
from helios_core.interactions.callers import Caller
from helios_core.interactions.search import search_type
from helios_core.interactions.search_parameters import parse_search
from helios_core.memory import MemoryDataProvider
from helios_core.storage.data_provider import PAGE_BYTES, Delete, Put
from helios_core.testing import corpus

CALLER = Caller(tenant=corpus.TENANT, fhir_version=FHIRVersion.R4, base="http://fhir.example")


@pytest.fixture(params=["memory", "sqlite", "postgres", "mongodb"])
def provider(request):
    """A data provider of every kind."""
    if request.param == "memory":
        return MemoryDataProvider()
    return request.getfixturevalue(f"{request.param}_provider")


async def store(provider, *resources):
    changes = [
        Put(resource=parse_resource(msgspec.json.encode(resource), CALLER.fhir_version))
        for resource in resources
    ]
    await provider.write(CALLER.tenant, CALLER.fhir_version, changes)


async def search(provider, resource_type, *pairs, max_bytes=PAGE_BYTES, lenient=False):
    parsed = parse_search(CALLER, resource_type, pairs, lenient=lenient)
    return await search_type(provider, CALLER, parsed, max_bytes=max_bytes)


async def pages(provider, resource_type, *pairs, max_bytes=PAGE_BYTES):
    found, after = [], None
    while True:
        position = [] if after is None else [("_after", after)]
        page = await search(provider, resource_type, *pairs, *position, max_bytes=max_bytes)
        found.append([stored.id for stored in page.matches])
        if (after := page.next) is None:
            return found


async def ids(provider, resource_type, *pairs):
    return [each for page in await pages(provider, resource_type, *pairs) for each in page]


def included(page):
    return sorted(f"{stored.resource_type}/{stored.id}" for stored in page.included)


def reference(text):
    return {"reference": text}


def observation(number, chance):
    """An Observation that lacks some elements and shares others."""
    elements = {
        "effectiveDateTime": chance.choice(["2020", "2020-02", "2020-02-03T04:05:06Z", "2019"]),
        "valueQuantity": {"value": chance.choice([1, 1.0, -2, 3.75, 10])},
        "subject": reference(f"Patient/p{chance.randrange(4)}"),
        "code": {"coding": [{"code": chance.choice("abC")}]},
    }
    kept = {name: value for name, value in elements.items() if chance.random() < 0.8}
    status = chance.choice(["final", "amended"])
    return {"resourceType": "Observation", "id": f"o{number:03}", "status": status, **kept}


SORTS = [
    "date",
    "-date",
    "value-quantity,-date",
    "-code,subject",
    "status,-value-quantity,_lastUpdated",
    "-_lastUpdated,-_id",
    "_lastUpdated,date",
    "-subject,-_id",
    "_id,date",
]


@pytest.mark.parametrize("read_at_once", [5, 1000])
async def test_pages_follow_each_other_in_any_order(provider, read_at_once, monkeypatch):
    """Whether the data fit into what is read at once or not."""
    monkeypatch.setattr(sorting, "PAGE_SIZE", read_at_once)
    chance = random.Random(read_at_once)
    await store(provider, *(observation(number, chance) for number in range(32)))
    memory = MemoryDataProvider()
    for stored in (await search(provider, "Observation", ("_count", "1000"))).matches:
        await store(memory, msgspec.json.decode(stored.content))

    for sort in SORTS:
        whole = await pages(provider, "Observation", ("_sort", sort), ("_count", "1000"))
        cut = await pages(provider, "Observation", ("_sort", sort), ("_count", "7"))

        assert len(whole) == 1, sort
        assert [*chain(*cut)] == whole[0], sort
        assert {len(page) for page in cut[:-1]} == {7}, sort
        assert len({*whole[0]}) == 32, sort
        if "_lastUpdated" not in sort:  # the only value that a store sets itself
            expected = await pages(memory, "Observation", ("_sort", sort), ("_count", "1000"))
            assert whole == expected, sort


async def test_every_parameter_can_be_sorted_by(provider):
    chance = random.Random(1)
    await store(provider, *(observation(number, chance) for number in range(9)))

    for code in sortable(CALLER.fhir_version, "Observation"):
        for sort in (code, f"-{code}"):
            found = await ids(provider, "Observation", ("_sort", sort), ("_count", "2"))
            assert sorted(found) == [f"o{number:03}" for number in range(9)], sort


@pytest.mark.parametrize("sort", ["date", "-date", "status,-value-quantity"])
@pytest.mark.parametrize("read_at_once", [5, 1000])
async def test_what_does_not_change_is_found_once_while_others_write(
    provider, sort, read_at_once, monkeypatch
):
    monkeypatch.setattr(sorting, "PAGE_SIZE", read_at_once)
    chance = random.Random(sort)
    staying = [observation(number, chance) for number in range(0, 24, 2)]
    await store(provider, *staying, *(observation(n, chance) for n in range(1, 24, 2)))
    found, after = [], None

    for number in range(100):
        position = [] if after is None else [("_after", after)]
        page = await search(provider, "Observation", ("_sort", sort), ("_count", "3"), *position)
        found += [stored.id for stored in page.matches]
        leaving = f"o{(2 * number + 1) % 24:03}"
        deletion = Delete(resource_type="Observation", id=leaving)
        await provider.write(CALLER.tenant, CALLER.fhir_version, [deletion])
        await store(provider, observation(100 + number, chance))
        await store(provider, observation((2 * number + 11) % 24, chance))
        if (after := page.next) is None:
            break

    stayed = [each for each in found if each in {resource["id"] for resource in staying}]
    assert sorted(stayed) == sorted(resource["id"] for resource in staying)


async def test_a_sorted_page_ends_before_it_has_too_many_bytes(provider):
    chance = random.Random(2)
    large = {"text": {"status": "generated", "div": f"<div>{'x' * 5000}</div>"}}
    await store(
        provider, *(observation(n, chance) | (large if n % 5 == 0 else {}) for n in range(20))
    )

    cut = await pages(provider, "Observation", ("_sort", "date"), max_bytes=6000)

    assert len(cut) > 3
    assert all(cut)
    assert [*chain(*cut)] == await ids(provider, "Observation", ("_sort", "date"))


async def test_a_sorted_search_knows_how_many_match(provider):
    chance = random.Random(3)
    await store(provider, *(observation(number, chance) for number in range(9)))

    page = await search(provider, "Observation", ("_sort", "date"), ("_count", "2"))

    assert page.total == 9


async def test_a_page_of_another_order_is_refused(provider):
    chance = random.Random(4)
    await store(provider, *(observation(number, chance) for number in range(5)))
    page = await search(provider, "Observation", ("_sort", "date"), ("_count", "2"))

    for sort in ("-date", "code", "_id", "_lastUpdated"):
        with pytest.raises(InvalidParameter):
            await search(provider, "Observation", ("_sort", sort), ("_after", page.next))
    for made_up in ("", "☃", "e30", "W10", "WyJkYXRlIiwiYSIsW11d", "a" * 5001):
        with pytest.raises(InvalidParameter):
            await search(provider, "Observation", ("_sort", "date"), ("_after", made_up))


async def test_more_than_can_be_sorted_is_refused(provider, monkeypatch):
    monkeypatch.setattr(sorting, "MAX_SORTED", 3)
    # Less than there is, since what one sample has completely is sorted in any case.
    monkeypatch.setattr(sorting, "SAMPLE_SIZE", 2)
    monkeypatch.setattr(sorting, "_SAMPLE_FACTOR", 0)
    chance = random.Random(5)
    dated = {"effectiveDateTime": "2020"}
    await store(provider, *(observation(number, chance) | dated for number in range(4)))

    for sort in ("status", "-date"):
        with pytest.raises(TooCostly):
            await search(provider, "Observation", ("_sort", sort))
    assert len((await search(provider, "Observation", ("_sort", "-_lastUpdated"))).matches) == 4


@pytest.fixture
async def ward(provider):
    """Two observations of two patients, whose practitioners work for organizations."""
    await store(
        provider,
        {"resourceType": "Organization", "id": "top", "name": "Top"},
        {
            "resourceType": "Organization",
            "id": "org",
            "name": "Clinic",
            "partOf": reference("Organization/top"),
        },
        {"resourceType": "Practitioner", "id": "doc", "name": [{"family": "Grey"}]},
        {
            "resourceType": "Patient",
            "id": "a",
            "name": [{"family": "Ames"}],
            "generalPractitioner": [reference("Practitioner/doc"), reference("Organization/org")],
            "managingOrganization": reference("Organization/org"),
            "link": [{"other": reference("Patient/b"), "type": "seealso"}],
        },
        {
            "resourceType": "Patient",
            "id": "b",
            "link": [{"other": reference("Patient/a"), "type": "seealso"}],
        },
        {
            "resourceType": "Encounter",
            "id": "e",
            "status": "finished",
            "class": {"code": "AMB"},
            "subject": reference("Patient/a"),
        },
        {
            "resourceType": "Observation",
            "id": "oa",
            "status": "final",
            "code": {"text": "x"},
            "subject": reference("Patient/a"),
            "encounter": reference("Encounter/e"),
        },
        {
            "resourceType": "Observation",
            "id": "ob",
            "status": "final",
            "code": {"text": "x"},
            "subject": reference("Patient/b"),
        },
    )
    return provider


THREE_STEPS = (
    "_has:Patient:general-practitioner:_has:Encounter:patient:_has:Observation:encounter:_id"
)


CHAINS = [
    ("Observation", ("subject:Patient.general-practitioner.name", "grey"), ["oa"]),
    ("Observation", ("subject:Patient.general-practitioner.name", "clinic"), ["oa"]),
    ("Observation", ("subject.general-practitioner:Organization.name", "top"), []),
    ("Observation", ("patient.organization.partof.name", "top"), ["oa"]),
    ("Observation", ("patient.organization.partof.name:exact", "top"), []),
    ("Observation", ("patient.link:Patient.link:Patient.family", "ames"), ["oa"]),
    (
        "Organization",
        ("_has:Patient:organization:_has:Observation:patient:status", "final"),
        ["org"],
    ),
    ("Practitioner", (THREE_STEPS, "oa"), ["doc"]),
    (
        "Practitioner",
        (
            "_has:Patient:general-practitioner:organization:Organization.partof.name",
            "top",
        ),
        ["doc"],
    ),
    (
        "Practitioner",
        ("_has:Patient:general-practitioner:organization.name", "clinic"),
        ["doc"],
    ),
    ("Observation", ("subject:Patient._has:Encounter:patient:status", "finished"), ["oa"]),
    ("Observation", ("subject:Patient._has:Encounter:patient:status", "planned"), []),
]


async def test_chains_of_several_steps_reach_what_they_name(ward):
    for resource_type, pair, expected in CHAINS:
        assert await ids(ward, resource_type, pair) == expected, pair


INCLUDES = [
    ("Observation", [("_include", "*")], ["Encounter/e", "Patient/a", "Patient/b"]),
    (
        "Observation",
        [("_include", "Observation:*")],
        ["Encounter/e", "Patient/a", "Patient/b"],
    ),
    ("Observation", [("_include", "Observation:subject:Group")], []),
    ("Observation", [("_include", "Observation:subject:Patient")], ["Patient/a", "Patient/b"]),
    (
        "Observation",
        [
            ("_include", "Observation:encounter"),
            ("_include:iterate", "Encounter:subject"),
            ("_include:iterate", "Patient:organization"),
        ],
        ["Encounter/e", "Organization/org", "Patient/a"],
    ),
    (
        "Observation",
        [("_include:iterate", "*")],
        [
            "Encounter/e",
            "Organization/org",
            "Organization/top",
            "Patient/a",
            "Patient/b",
            "Practitioner/doc",
        ],
    ),
    ("Practitioner", [("_revinclude", "*")], ["Patient/a"]),
    ("Practitioner", [("_revinclude", "Patient:*")], ["Patient/a"]),
    (
        "Practitioner",
        [
            ("_revinclude", "Patient:general-practitioner"),
            ("_revinclude:iterate", "Encounter:patient"),
        ],
        ["Encounter/e", "Patient/a"],
    ),
    ("Organization", [("_include:iterate", "Organization:partof")], []),
    (
        "Practitioner",
        [("_revinclude:recurse", "*")],
        ["Encounter/e", "Observation/oa", "Observation/ob", "Patient/a", "Patient/b"],
    ),
]


async def test_includes_bring_what_they_name_once(ward):
    for resource_type, include, expected in INCLUDES:
        page = await search(ward, resource_type, *include)

        assert included(page) == expected, include
        assert page.remarks == [], include


async def test_what_refers_to_itself_in_a_circle_comes_to_an_end(ward):
    page = await search(ward, "Patient", ("_id", "a"), ("_include:iterate", "Patient:link"))

    assert included(page) == ["Patient/b"]


async def test_a_page_says_which_includes_it_leaves_out(ward, monkeypatch):
    for bound in ("MAX_ROUNDS", "MAX_SEARCHES", "MAX_INCLUDED"):
        with monkeypatch.context() as bounded:
            bounded.setattr(includes, bound, 1)
            page = await search(
                ward, "Observation", ("_include:iterate", "*"), ("_revinclude", "*")
            )

        assert [remark.code for remark in page.remarks] == ["incomplete"], bound


async def test_included_resources_have_a_bound_in_bytes(ward):
    page = await search(ward, "Observation", ("_include", "*"), max_bytes=500)

    assert sum(len(stored.content) for stored in page.included) <= 500
    assert [remark.code for remark in page.remarks] == ["incomplete"]


async def test_the_total_of_a_type_is_always_known(ward):
    page = await search(ward, "Observation", ("_count", "1"))
    none = await search(ward, "Observation", ("_count", "1"), ("_total", "none"))
    filtered = await search(ward, "Observation", ("_count", "1"), ("status", "final"))

    assert (page.total, none.total, filtered.total) == (2, None, None)
