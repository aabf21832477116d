"""Histories with `_since` and `_at`, of a resource, a type and everything."""

from datetime import timedelta

import msgspec
import pytest

from helios_core.errors import InvalidParameter, ResourceNotFound
from helios_core.fhir.instants import format_instant
from helios_core.interactions.history import (
    history_instance,
    history_system,
    history_type,
    parse_history,
)
from helios_core.storage.data_provider import Delete

MICROSECOND = timedelta(microseconds=1)
INTERVALS = ["before", "first", "second", "between", "third", "after"]


@pytest.fixture
async def instants(provider, caller, store):
    """Store three versions of a Patient, the last one a deletion; return what lies between."""
    for number in range(2):
        await store({"resourceType": "Patient", "id": "p", "multipleBirthInteger": number})
    change = Delete(resource_type="Patient", id="p")
    await provider.write(caller.tenant, caller.fhir_version, [change])
    key = "Patient", "p"
    page = await history_instance(provider, caller, *key, parse_history([]))
    third, second, first = [version.last_updated for version in page.versions]
    return {
        "before": first - MICROSECOND,
        "first": first,
        "second": second,
        "between": third - MICROSECOND,
        "third": third,
        "after": third + MICROSECOND,
    }


@pytest.fixture(params=["instance", "type", "system"])
def history(request, provider, caller):
    """Return the numbers of the versions in a history of what `instants` stores."""

    async def history(*pairs):
        query, pages = parse_history([*pairs, ("_count", "1")]), []
        while query is not None:
            if request.param == "instance":
                page = await history_instance(provider, caller, "Patient", "p", query)
            elif request.param == "type":
                page = await history_type(provider, caller, "Patient", query)
            else:
                page = await history_system(provider, caller, query)
            pages.append([version.version_id for version in page.versions])
            query = page.next and parse_history([*pairs, ("_count", "1"), page.next])
        return [number for page in pages for number in page]

    return history


@pytest.mark.parametrize(
    ("name", "expected"),
    [*zip(INTERVALS, ([3, 2, 1], [3, 2, 1], [3, 2], [3], [3], []), strict=True)],
)
async def test_since_is_inclusive(instants, history, name, expected):
    assert await history(("_since", format_instant(instants[name]))) == expected


@pytest.mark.parametrize(
    ("name", "expected"), [*zip(INTERVALS, ([], [1], [2], [2], [3], []), strict=True)]
)
async def test_at_is_what_was_current_then_and_what_was_deleted_then(
    instants, history, name, expected
):
    assert await history(("_at", format_instant(instants[name]))) == expected


async def test_at_may_be_a_period(instants, history):
    """FHIR R4, http.html#history: current at some point during the period."""
    year = instants["first"].year

    assert await history(("_at", f"{year}")) == [3, 2, 1]
    assert await history(("_at", f"{year - 1}")) == []


async def test_at_and_since_both_count(instants, history):
    since = ("_since", format_instant(instants["second"]))

    assert await history(since, ("_at", format_instant(instants["first"]))) == []
    assert await history(since, ("_at", format_instant(instants["second"]))) == [2]


@pytest.mark.parametrize("at", ["2999", "9999-12-31T23:59:59Z"])
async def test_the_future_shows_what_is_current_now(provider, caller, store, at):
    await store({"resourceType": "Patient", "id": "p"})
    await store({"resourceType": "Patient", "id": "p", "active": True})

    for page in (
        await history_instance(provider, caller, "Patient", "p", parse_history([("_at", at)])),
        await history_type(provider, caller, "Patient", parse_history([("_at", at)])),
    ):
        assert [version.version_id for version in page.versions] == [2]


async def test_a_history_without_versions_of_its_period_is_empty_but_found(
    provider, caller, store
):
    await store({"resourceType": "Patient", "id": "p"})
    query = parse_history([("_at", "1999")])

    page = await history_instance(provider, caller, "Patient", "p", query)

    assert (list(page.versions), page.next) == ([], None)
    with pytest.raises(ResourceNotFound):
        await history_instance(provider, caller, "Patient", "none", query)


async def test_many_versions_of_a_resource_are_read_in_pieces(provider, caller, store):
    for number in range(120):
        await store({"resourceType": "Patient", "id": "p", "multipleBirthInteger": number})

    query = parse_history([("_count", "100")])
    page = await history_instance(provider, caller, "Patient", "p", query)

    assert [version.version_id for version in page.versions] == list(range(120, 20, -1))
    assert page.next == ("_before", "21")


async def test_the_pages_of_a_type_end_at_the_instant_of_the_first(provider, caller, store):
    for number in range(5):
        await store({"resourceType": "Patient", "id": f"p{number}"})
    query = parse_history([("_count", "2")])

    first = await history_type(provider, caller, "Patient", query)
    await store({"resourceType": "Patient", "id": "later"})
    second = await history_type(
        provider, caller, "Patient", parse_history([("_count", "2"), first.next])
    )

    assert [each.id for each in (*first.versions, *second.versions)] == ["p4", "p3", "p2", "p1"]
    assert second.complete_to == first.complete_to


async def test_a_page_that_no_history_gave_is_refused(provider, caller):
    query = msgspec.structs.replace(parse_history([]), after="at:1")

    with pytest.raises(InvalidParameter):
        await history_type(provider, caller, "Patient", query)
