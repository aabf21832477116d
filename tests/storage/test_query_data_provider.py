"""Rows become resources, and how many of them are read for what."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from msgspec.structs import replace

from helios_core import (
    BackendError,
    Level,
    QueryDataProvider,
    TypeKey,
    numbered_parameters,
)
from helios_core.fhir import FHIRVersion
from helios_core.testing import corpus
from helios_core.testing.snapshots import take_snapshot
from tests.testing.clinic import PATIENTS, SCHEMA, SETTLED, VISITS, WARDS, Clinic

STAMP = 1_767_225_600_000_000
LINE_STAMP = "2026-01-01T00:00:00.000000Z"


class CountingClinic(Clinic):
    """Notes what was queried, and how many rows came back."""

    queried: list[tuple[str, dict, int]]

    async def rows(self, query, parameters):
        rows = await super().rows(query, parameters)
        self.queried.append((query, parameters, len(rows)))
        return rows


@pytest.fixture
def make(tmp_path):
    """Return a function that fills the tables of a clinic and opens it with these queries."""

    def make(*queries, patients=(), visits=()):
        path = tmp_path / "clinic.db"
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.executescript(SCHEMA)
            connection.execute("INSERT INTO loads VALUES (?)", [STAMP])
            rows = [(*row, STAMP)[:3] for row in patients]
            connection.executemany("INSERT INTO patients VALUES (?, ?, ?)", rows)
            rows = [(*row, STAMP) for row in visits]
            connection.executemany("INSERT INTO visits VALUES (?, ?, ?, ?)", rows)
        made = type("Made", (CountingClinic,), {"queries": queries or (PATIENTS, VISITS, WARDS)})
        provider = made(path)
        provider.queried = []
        return provider

    return make


async def view_of(provider, *types, patients=None, level=Level.SYSTEM):
    request = corpus.request(
        tenant="ours", fhir_version=FHIRVersion.R4B, types=types or ("Patient",), level=level
    )
    return corpus.view(await provider.transaction_time(), request, patients=patients)


def mapped_by(resource):
    return replace(PATIENTS, resource=resource)


async def lines_and_damaged(provider, *types):
    snapshot = await take_snapshot(provider, await view_of(provider, *types))
    return [msgspec.json.decode(line) for line in snapshot.lines], list(snapshot.damaged)


async def test_a_dictionary_becomes_a_line_with_its_version(make):
    provider = make(patients=[(7, "Ada")])

    [line] = (await take_snapshot(provider, await view_of(provider))).lines

    assert line.decode() == (
        f'{{"resourceType":"Patient","id":"7","meta":{{"versionId":"{STAMP}",'
        f'"lastUpdated":"{LINE_STAMP}"}},"name":[{{"text":"Ada"}}]}}'
    )


async def test_what_a_dictionary_says_of_its_identity_is_replaced(make):
    wrong = {
        "name": [{"text": "a"}],
        "id": "8",
        "resourceType": "Group",
        "meta": {"versionId": "x", "tag": [{"code": "a"}]},
    }
    provider = make(mapped_by(lambda _: wrong), patients=[(7, "a")])

    [[resource], damaged] = await lines_and_damaged(provider)

    assert damaged == []
    assert resource == {
        "resourceType": "Patient",
        "id": "7",
        "meta": {"versionId": str(STAMP), "lastUpdated": LINE_STAMP, "tag": [{"code": "a"}]},
        "name": [{"text": "a"}],
    }


async def test_bytes_are_a_resource_that_is_stamped(make):
    provider = make(
        mapped_by(lambda _: b'{"resourceType": "Patient", "birthDate": "1990", "x": 1.10}'),
        patients=[(7, "a")],
    )

    [line] = (await take_snapshot(provider, await view_of(provider))).lines

    assert line.endswith(b'"},"birthDate":"1990","x":1.10}')


@pytest.mark.parametrize("empty", [None, "", [], {}, [None], [{"text": None}], {"a": {"b": []}}])
async def test_what_is_empty_is_left_out(make, empty):
    provider = make(mapped_by(lambda _: {"name": empty, "active": False}), patients=[(7, "a")])

    [[resource], _] = await lines_and_damaged(provider)

    assert resource.keys() == {"resourceType", "id", "meta", "active"}
    assert resource["active"] is False


async def test_decimals_keep_their_digits(make):
    provider = make(mapped_by(lambda _: {"value": Decimal("1.10")}), patients=[(7, "a")])

    [line] = (await take_snapshot(provider, await view_of(provider))).lines

    assert line.endswith(b'"value":1.10}')


@pytest.mark.parametrize(
    "resource",
    [
        lambda row: {"value": row["secret"]},
        lambda _: {"value": float("nan")},
        lambda _: {"value": [{"deep": Decimal("Infinity")}]},
        lambda _: {"value": "\ud800"},
        lambda _: {"value": object()},
        lambda _: b"[1]",
        lambda _: b'{"resourceType":"Group"}',
        lambda _: b'{"resourceType":"Patient","id":"8"}',
        lambda _: None,
    ],
)
async def test_a_row_that_cannot_be_mapped_is_damaged(make, resource):
    def mapping(row):
        return resource(row) if row["id"] == 7 else {"active": True}

    provider = make(mapped_by(mapping), patients=[(7, "secret"), (8, "b")])

    [[line], [damaged]] = await lines_and_damaged(provider)

    assert line["id"] == "8"
    assert (damaged.resource_type, damaged.id) == ("Patient", "7")
    assert "secret" not in damaged.reason


async def test_a_row_without_an_instant_is_damaged_and_not_lost(make):
    provider = make(patients=[(7, "a", None), (8, "b")])

    [[line], [damaged]] = await lines_and_damaged(provider)

    assert (line["id"], damaged.id) == ("8", "7")


async def test_a_key_that_is_no_id_is_damaged(make):
    select = "SELECT id || ' ' AS id, name, changed_at FROM patients"
    provider = make(replace(PATIENTS, select=select, key_type=str), patients=[(7, "a")])

    [lines, [damaged]] = await lines_and_damaged(provider)

    assert (lines, damaged.id) == ([], "7 ")


async def test_a_key_of_another_type_is_refused(make):
    provider = make(replace(PATIENTS, key_type=str), patients=[(7, "a")])

    with pytest.raises(BackendError, match="key of type int; str is required"):
        await lines_and_damaged(provider)


async def test_a_key_that_occurs_twice_is_refused(make):
    select = (
        "SELECT p.id, p.name, p.changed_at FROM patients AS p JOIN visits ON patient_id = p.id"
    )
    provider = make(
        replace(PATIENTS, select=select),
        patients=[(7, "a"), (8, "b")],
        visits=[(1, 8, "x"), (2, 8, "y"), (3, 7, "z")],
    )

    with pytest.raises(BackendError, match="the query of Patient has two rows with one key"):
        await lines_and_damaged(provider)


async def test_reading_costs_by_the_cohort_and_not_by_the_store(make):
    everybody = range(1, 2001)
    provider = make(
        patients=[(number, "a") for number in everybody],
        visits=[(number * 10 + each, number, "b") for number in everybody for each in range(3)],
    )
    members = [str(number) for number in range(1, 2001, 100)]
    view = await view_of(provider, "Patient", "Encounter", patients=members, level=Level.GROUP)

    snapshot = await take_snapshot(provider, view)

    assert len(snapshot.lines) == 80
    assert sum(rows for *_, rows in provider.queried) < 4 * len(snapshot.lines)


async def test_each_patient_of_a_cohort_is_sent_for_a_few_queries_only(make):
    provider = make(patients=[(number, "a") for number in range(1, 101)])
    members = [str(number) for number in range(1, 20_001)]
    view = await view_of(provider, patients=members, level=Level.GROUP)

    await take_snapshot(provider, view, shard_bytes=1000)

    queries = [parameters for _, parameters, _ in provider.queried]
    sent = sum(name.startswith("patient") for parameters in queries for name in parameters)
    assert len(members) <= sent <= 4 * len(members)


async def test_pages_are_as_large_as_batches(make):
    provider = make(patients=[(number, "x" * 1000) for number in range(1, 401)])
    view = await view_of(provider)
    [shard] = await provider.plan(view, shard_bytes=1_000_000_000)
    provider.queried.clear()

    sizes = [len(b.lines) async for b in provider.read(view, shard, batch_bytes=40_000)]

    rows = [rows for _, parameters, rows in provider.queried if "row_limit" in parameters]
    assert sum(sizes) == 400
    assert rows[0] == 1
    assert max(rows) * 1100 <= 45_000
    assert len(rows) <= 400 // 35 + 5


async def test_mapping_does_not_block_the_event_loop(make):
    released = threading.Event()

    def mapping(_):
        assert released.wait(60), "the event loop did not run while a row was mapped"
        return {"active": True}

    provider = make(mapped_by(mapping), patients=[(7, "a")])
    view = await view_of(provider)

    async with asyncio.TaskGroup() as group:
        taken = group.create_task(take_snapshot(provider, view))
        asyncio.get_running_loop().call_later(0.01, released.set)

    assert len(taken.result().lines) == 1


async def test_the_id_of_a_damaged_row_that_may_be_of_others_is_withheld(make):
    def mapping(row):
        if row["id"] == 1:
            raise ValueError
        return {"subject": {"reference": f"Patient/{row['patient_id']}"}}

    provider = make(
        PATIENTS,
        replace(VISITS, patient=None, resource=mapping),
        patients=[(7, "a"), (8, "b")],
        visits=[(1, 8, "x"), (2, 8, "y"), (3, 7, "z")],
    )
    view = await view_of(provider, "Encounter", patients=["7"], level=Level.GROUP)

    snapshot = await take_snapshot(provider, view)

    assert snapshot.names == ["Encounter/3"]
    assert [each.id for each in snapshot.damaged] == ["(withheld)"]
    assert await provider.among(view, "Encounter", ["1", "2", "3"]) == {"3"}


async def test_nothing_loaded_yet_is_settled_since_1970(make):
    provider = make()
    with closing(sqlite3.connect(provider.path)) as connection, connection:
        connection.execute("DELETE FROM loads")

    assert await provider.transaction_time() == datetime(1970, 1, 1, tzinfo=UTC)


class NoRows(QueryDataProvider):
    async def rows(self, query, parameters):
        return []


@pytest.mark.parametrize(
    ("queries", "problem"),
    [
        ((PATIENTS, PATIENTS), "two queries of one type"),
        ((VISITS,), "no query of Patient"),
        ((replace(PATIENTS, resource_type="Patiente"),), "Patiente is not a resource type"),
    ],
)
def test_queries_that_do_not_fit_together_are_refused(queries, problem):
    with pytest.raises(ValueError, match=problem):
        NoRows(queries, settled=SETTLED)


async def test_an_instant_without_a_time_zone_is_refused():
    with pytest.raises(BackendError, match="no time zone"):
        NoRows([PATIENTS], settled=SETTLED).from_database(datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("resource_id", "key"),
    [
        ("7", 7),
        ("-7", -7),
        ("0", 0),
        ("07", None),
        ("-0", None),
        ("7.0", None),
        ("\u0667", None),
        ("9223372036854775807", 9223372036854775807),
        ("9223372036854775808", None),
        ("", None),
    ],
)
def test_only_the_text_of_a_number_is_the_id_of_its_row(resource_id, key):
    assert PATIENTS.to_key(resource_id) == key


def test_parameters_are_numbered_in_the_order_in_which_they_occur():
    query = """
        SELECT a::date, ':no', "b:no" -- :no
        /* :no */ FROM t WHERE b = :second AND c = :first AND d < :second
    """

    text, values = numbered_parameters(query, {"first": 1, "second": 2, "third": 3})

    assert text == query.replace(":second", "$1").replace(":first", "$2")
    assert values == [2, 1]


def test_a_parameter_without_a_value_is_an_error():
    with pytest.raises(KeyError):
        numbered_parameters("SELECT :a", {})


async def test_the_past_is_read_by_tables_that_keep_it(tmp_path):
    path = tmp_path / "past.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            SCHEMA
            + "CREATE TABLE names (id INTEGER, name TEXT, valid_from INTEGER, valid_to INTEGER);"
        )
        connection.execute("INSERT INTO loads VALUES (20)")
        rows = [(1, "maiden", 10, 20), (1, "married", 20, 1 << 62)]
        connection.executemany("INSERT INTO names VALUES (?, ?, ?, ?)", rows)
    select = """
        SELECT id, name, valid_from AS changed_at FROM names
        WHERE valid_from <= :at AND valid_to > :at
    """
    made = type("Past", (Clinic,), {"queries": (replace(PATIENTS, select=select),)})
    made.keeps_past = True
    provider = made(path)
    key = TypeKey("ours", FHIRVersion.R4B, "Patient").resource("1")

    names = [
        msgspec.json.decode(stored.content)["name"][0]["text"]
        for stamp in (15, 25)
        if (stored := await provider.get(key, at=provider.from_database(stamp)))
    ]
    [line] = (await take_snapshot(provider, await view_of(provider))).lines

    assert names == ["maiden", "married"]
    assert b"married" in line
