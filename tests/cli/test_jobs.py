"""`helios jobs`, on the job store itself."""

import asyncio
import json
import re
import sqlite3
from contextlib import closing
from datetime import timedelta

import msgspec
import pytest
from click.testing import CliRunner

from helios_core.cli.commands import app
from helios_core.config.settings import OWN
from helios_core.model.parts import PartKey, PartKind
from helios_core.testing import corpus
from helios_localfs import LocalFSSettings, LocalOutputStore
from helios_sqlite import SQLiteSettings, open_job_store

HOUR = timedelta(hours=1)


class Store:
    """Exports in a database, and the commands that look at them."""

    def __init__(self, folder):
        self.folder = folder

    def helios(self, *arguments):
        return CliRunner().invoke(
            app, ["jobs", *arguments], env={"HFS_DATA_DIR": str(self.folder)}
        )

    def json(self, *arguments):
        result = self.helios(*arguments, "--format", "json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def do(self, work):
        """Do something with the opened store."""

        async def opened():
            async with open_job_store(SQLiteSettings(data_dir=str(self.folder))) as store:
                return await work(store)

        return asyncio.run(opened())

    def add(self, job_id, *, tenant=corpus.TENANT, owner=None, shards=2):
        job = msgspec.structs.replace(corpus.job(job_id, tenant=tenant), owner=owner)
        self.do(lambda store: store.add(job, corpus.shards(shards), max_active=1000))

    def finish(self, job_id):
        async def work(store):
            lease = await store.claim("w", lease_for=HOUR, max_attempts=1)
            assert lease.job.id == job_id
            await store.complete(lease, [corpus.part(lease)])

        self.add(job_id, shards=1)
        self.do(work)

    def age(self, job_id, by):
        self.sql(
            "UPDATE jobs SET created_at = created_at - ? WHERE id = ?",
            by // timedelta(milliseconds=1),
            job_id,
        )

    def spoil(self, job_id):
        self.sql("UPDATE jobs SET accepted = x'7b' WHERE id = ?", job_id)

    def sql(self, statement, *parameters):
        with closing(sqlite3.connect(self.folder / "helios.db")) as connection, connection:
            return connection.execute(statement, parameters).fetchall()


@pytest.fixture
def store(monkeypatch, tmp_path):
    for variable in OWN:
        monkeypatch.delenv(variable.name, raising=False)
    return Store(tmp_path)


def ids(rows):
    return [row["id"] for row in rows]


def test_the_list_has_what_operators_ask_for(store):
    store.finish("complete-job")
    store.add("waiting-job", tenant="other", owner="https://issuer.example client")

    rows = {row["id"]: row for row in store.json("list")}

    complete, waiting = rows["complete-job"], rows["waiting-job"]
    assert (complete["status"], complete["percent"], complete["attempts"]) == ("complete", 100, 1)
    assert (complete["shards_done"], complete["shards_total"]) == (1, 1)
    assert complete["bytes"] == 400
    assert complete["ended_at"] >= complete["created_at"]
    assert (waiting["tenant"], waiting["owner"]) == ("other", "https://issuer.example client")
    assert (waiting["status"], waiting["percent"], waiting["shards_total"]) == ("accepted", 0, 2)
    assert (waiting["level"], waiting["types"]) == ("system", list(corpus.TYPES))
    table = store.helios("list").output
    assert re.search(r"complete-job\tclinic\tcomplete\t\d+s\t100 %\t1/1\t400 B", table)


def test_what_an_export_waits_for_is_in_the_list(store):
    async def work(jobs):
        lease = await jobs.claim("w", lease_for=HOUR, max_attempts=1)
        await jobs.postpone(lease, "the bucket is away", retry_after=HOUR, patience=HOUR)

    store.add("waiting-job")
    store.do(work)

    [row] = store.json("list")
    assert (row["waiting_for"], row["attempts"], row["last_error"]) == (
        *("the bucket is away", 0, None),
    )
    assert "waiting for" in store.helios("show", "waiting-job").output
    assert "waiting: the bucket is away" in " ".join(store.helios("list").output.split())


def test_the_list_is_restricted_by_options(store):
    store.finish("complete-job")
    store.add("other-job", tenant="other", owner="somebody")
    store.age("complete-job", 3 * HOUR)

    assert ids(store.json("list", "--tenant", "other")) == ["other-job"]
    assert ids(store.json("list", "--status", "complete", "--status", "error")) == ["complete-job"]
    assert ids(store.json("list", "--owner", "somebody")) == ["other-job"]
    assert ids(store.json("list", "--owner", "")) == ["complete-job"]
    assert ids(store.json("list", "--older-than", "2h")) == ["complete-job"]
    assert ids(store.json("list", "--newer-than", "120m")) == ["other-job"]
    assert store.helios("list", "--status", "cancelled").output == "There are no such exports.\n"


@pytest.mark.parametrize("age", ["", "2", "h", "2x", "-1h", "1.5h", "9999999w", "٣h"])
def test_an_age_that_is_none_is_refused(store, age):
    result = store.helios("list", "--older-than", age)

    assert result.exit_code == 2
    assert "followed by s, m, h, d or w" in result.stderr


def test_the_list_comes_in_pages(store):
    for number in range(5):
        store.add(f"job-{number}")
        store.age(f"job-{number}", number * HOUR)

    first = store.helios("list", "--limit", "2")

    assert "There are more: --after job-1" in first.stderr
    assert ids(store.json("list", "--limit", "2", "--after", "job-1")) == ["job-2", "job-3"]
    assert ids(store.json("list", "--limit", "2", "--after", "job-3")) == ["job-4"]


def test_an_export_is_shown_by_the_beginning_of_its_id(store):
    store.add("abcd-1")
    store.add("abcd-2")

    assert store.json("show", "abcd-1")["id"] == "abcd-1"
    shown = store.helios("show", "abcd-2").output
    assert re.search(r"^shards total +2$", shown, re.MULTILINE)
    assert re.search(r"^types +Patient, Observation, Organization$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("prefix", "code", "words"),
    [
        ("abcd", 2, "2 ids begin with abcd"),
        ("abc", 2, "too short"),
        ("", 2, "too short"),
        ("abcde", 1, "no export whose id begins with abcde"),
        ("%%%%", 1, "no export"),
    ],
)
@pytest.mark.parametrize("command", ["show", "cancel", "delete", "watch"])
def test_a_beginning_that_names_no_single_export_does_nothing(store, command, prefix, code, words):
    store.add("abcd-1")
    store.add("abcd-2")

    result = store.helios(command, prefix)

    assert result.exit_code == code
    assert words in result.stderr
    assert {row["status"] for row in store.json("list")} == {"accepted"}


def test_one_id_of_two_tenants_needs_the_tenant(store):
    store.add("same-id")
    store.add("same-id", tenant="other")

    assert store.helios("cancel", "same-id").exit_code == 2
    assert store.helios("cancel", "same-id", "--tenant", "other").exit_code == 0

    statuses = {row["tenant"]: row["status"] for row in store.json("list")}
    assert statuses == {"clinic": "accepted", "other": "cancelled"}


def test_a_cancelled_export_frees_its_slot(store):
    store.add("abcd-1")

    result = store.helios("cancel", "abcd-1")

    assert result.output == "abcd-1 is cancelled.\n"
    assert store.json("show", "abcd-1")["status"] == "cancelled"
    store.add("abcd-2")
    again = store.helios("cancel", "abcd-1", "abcd-2")
    assert again.output == "abcd-1 was cancelled already.\nabcd-2 is cancelled.\n"
    assert again.exit_code == 0


def test_a_deleted_export_leaves_neither_rows_nor_files(store):
    store.add("abcd-1")
    store.add("abcd-2")
    assert store.helios("cancel", "abcd-2").exit_code == 0
    key = PartKey(
        tenant=corpus.TENANT,
        job_id="abcd-1",
        kind=PartKind.OUTPUT,
        resource_type="Patient",
        ordinal=1,
        number=1,
        token=1,
    )

    async def chunks():
        yield b"{}\n"

    output = LocalOutputStore(LocalFSSettings(data_dir=str(store.folder)).root)
    asyncio.run(output.put(key, chunks()))

    result = store.helios("delete", "abcd-1", "abcd-2", "abcd-1")

    assert (result.exit_code, result.output.count("is deleted")) == (0, 2)
    assert store.sql("SELECT count(*) FROM shards") == [(0,)]
    assert not list((store.folder / "exports").glob("*/abcd-1"))


def test_an_unreadable_export_is_listed_as_such_and_can_be_deleted(store):
    store.finish("spoilt-job")
    store.spoil("spoilt-job")

    [row] = store.json("list")

    assert (row["readable"], row["status"], row["level"]) == (False, "complete", None)
    assert "complete, unreadable" in store.helios("list").output
    assert store.helios("show", "spoilt-job").exit_code == 0
    assert store.helios("delete", "spoilt-job").exit_code == 0
    assert store.json("list") == []


@pytest.mark.parametrize(("status", "code"), [("complete", 0), ("error", 1), ("cancelled", 1)])
def test_watching_one_export_ends_with_it(store, status, code):
    store.finish("watched-job")
    store.sql("UPDATE jobs SET status = ?", status)

    result = store.helios("watch", "watched", "--interval", "0.1")

    assert result.exit_code == code
    assert re.match(rf"watched-job clinic {status} \d+ % 1/1 shards 400 B", result.output)


def test_jobs_in_the_memory_of_a_server_are_out_of_reach(store, monkeypatch):
    monkeypatch.setenv("HFS_STORAGE_BACKEND", "memory")
    monkeypatch.setenv("HFS_BULK_EXPORT_OUTPUT_BACKEND", "memory")

    for arguments in (["list"], ["show", "abcd"], ["delete", "abcd"], ["watch"]):
        result = store.helios(*arguments)
        assert result.exit_code == 2
        assert "no other process sees them" in result.stderr


@pytest.mark.parametrize(
    "command", [["list"], ["show", "abcd"], ["cancel", "abcd"], ["delete", "abcd"], ["watch"]]
)
def test_a_folder_without_a_database_is_told_and_not_created(store, command):
    store.folder /= "mistyped"

    result = store.helios(*command)

    assert result.exit_code == 2
    assert "no database at" in " ".join(result.output.split())
    assert not store.folder.exists()
