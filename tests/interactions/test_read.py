from datetime import UTC, datetime

import msgspec
import pytest

from helios_core.errors import InvalidParameter, ResourceDeleted, ResourceNotFound
from helios_core.interactions.history import HistoryQuery, history_instance, parse_history
from helios_core.interactions.parameters import DEFAULT_COUNT, MAX_COUNT
from helios_core.interactions.read import read, vread

PATIENT = {"resourceType": "Patient", "id": "p"}


async def test_a_read_returns_the_current_version(provider, caller, store):
    await store(PATIENT)
    await store(PATIENT | {"active": True})

    stored = await read(provider, caller, "Patient", "p")

    assert stored.version_id == 2
    assert msgspec.json.decode(stored.content)["active"] is True


async def test_what_was_never_there_is_not_found(provider, caller):
    with pytest.raises(ResourceNotFound) as raised:
        await read(provider, caller, "Patient", "p")

    assert not isinstance(raised.value, ResourceDeleted)


async def test_what_was_deleted_can_be_read_only_in_its_earlier_versions(
    provider, caller, store, delete
):
    await store(PATIENT)
    await delete("Patient", "p")

    with pytest.raises(ResourceDeleted):
        await read(provider, caller, "Patient", "p")
    with pytest.raises(ResourceDeleted):
        await vread(provider, caller, "Patient", "p", "2")
    assert (await vread(provider, caller, "Patient", "p", "1")).version_id == 1


@pytest.mark.parametrize("version_id", ["2", "0", "", "x", "-1", "1.0", "9" * 18, "²"])
async def test_a_version_that_is_not_there_is_not_found(provider, caller, store, version_id):
    await store(PATIENT)

    with pytest.raises(ResourceNotFound):
        await vread(provider, caller, "Patient", "p", version_id)


async def test_the_pages_of_a_history_lead_to_each_other(provider, caller, store, delete):
    for number in range(4):
        await store(PATIENT | {"multipleBirthInteger": number})
    await delete("Patient", "p")

    pages, following = [], None
    while not pages or following is not None:
        before = following and int(following[1])
        query = HistoryQuery(count=2, before=before)
        page = await history_instance(provider, caller, "Patient", "p", query)
        pages.append([(stored.version_id, stored.content is None) for stored in page.versions])
        following = page.next

    assert pages == [[(5, True), (4, False)], [(3, False), (2, False)], [(1, False)]]


async def test_a_page_beyond_the_oldest_version_is_empty_but_found(provider, caller, store):
    await store(PATIENT)

    page = await history_instance(
        provider, caller, "Patient", "p", HistoryQuery(count=2, before=1)
    )

    assert (list(page.versions), page.next) == ([], None)
    with pytest.raises(ResourceNotFound):
        await history_instance(provider, caller, "Patient", "none", HistoryQuery(count=2))


@pytest.mark.parametrize(
    ("pairs", "query"),
    [
        ([], HistoryQuery(count=DEFAULT_COUNT)),
        ([("_count", "7"), ("_before", "3")], HistoryQuery(count=7, before=3)),
        ([("_count", "100000")], HistoryQuery(count=MAX_COUNT)),
        (
            [("_since", "2026-01-02T03:04:05.0000001+01:00")],
            HistoryQuery(count=DEFAULT_COUNT, since=datetime(2026, 1, 2, 2, 4, 5, 1, UTC)),
        ),
        (
            [("_at", "2026-01")],
            HistoryQuery(
                count=DEFAULT_COUNT,
                at=(
                    datetime(2026, 1, 1, tzinfo=UTC),
                    datetime(2026, 1, 31, 23, 59, 59, 999999, UTC),
                ),
            ),
        ),
        (
            [("_after", "1000000.at:1:2")],
            HistoryQuery(
                count=DEFAULT_COUNT,
                settled=datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
                after="at:1:2",
            ),
        ),
    ],
)
def test_the_parameters_of_a_history_have_defaults_and_limits(pairs, query):
    parsed = parse_history(pairs)

    assert msgspec.structs.replace(parsed, parameters=(), page=None) == query


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "", "٣"])
@pytest.mark.parametrize("name", ["_count", "_before"])
def test_parameters_of_a_history_that_are_no_numbers_are_refused(name, value):
    with pytest.raises(InvalidParameter, match=name):
        parse_history([(name, value)])


@pytest.mark.parametrize("name", ["_since", "_at", "_after"])
@pytest.mark.parametrize("value", ["", "x", "2026-13-01T00:00:00Z", "1e3", "-.at:1:1", "1.", "1"])
def test_parameters_of_a_history_that_are_no_instants_are_refused(name, value):
    with pytest.raises(InvalidParameter, match=name):
        parse_history([(name, value)])


def test_a_parameter_that_occurs_twice_is_refused():
    with pytest.raises(InvalidParameter, match="2 times"):
        parse_history([("_count", "1"), ("_count", "1")])
