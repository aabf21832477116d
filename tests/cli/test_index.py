"""`helios index`: what it shows, and what it refuses."""

import asyncio
import socket
from contextlib import asynccontextmanager

import msgspec
import pytest
from click.testing import CliRunner

import helios_sqlite
from helios_core.cli import index
from helios_core.cli.commands import app
from helios_core.cli.terminal import log_errors_only
from helios_core.memory import MemoryDataProvider, MemorySearchIndex
from helios_core.storage.indexer import Indexer
from helios_core.testing import corpus, write


def helios(*arguments):
    return CliRunner().invoke(app, ["index", *arguments])


@pytest.fixture
def followed(monkeypatch):
    """An index that has what was written to a data provider, and a resource less."""
    provider, kept = MemoryDataProvider(), MemorySearchIndex()

    async def begin():
        await write(provider, corpus.patient("p1"), corpus.patient("p2"))
        await write(provider, corpus.patient("p1"), tenant=corpus.OTHER_TENANT)
        await Indexer(provider, kept).follow()
        await write(provider, corpus.patient("p3"))

    @asynccontextmanager
    async def opened():
        log_errors_only()
        yield Indexer(provider, kept)

    asyncio.run(begin())
    monkeypatch.setattr(index, "_opened_indexer", opened)
    return kept


def test_the_status_is_tab_separated_values_in_a_pipe(followed):
    lines = helios("status").stdout.splitlines()

    rows = [line.split("\t") for line in lines]
    assert rows[0] == ["tenant", "version", "state", "reached", "lag", "changes", "entries"]
    assert [(row[0], row[2], row[5], row[6]) for row in rows[1:]] == [
        (corpus.TENANT, "following", "1", "2"),
        (corpus.OTHER_TENANT, "following", "0", "1"),
    ]


def test_the_status_is_json_on_request(followed):
    rows = msgspec.json.decode(helios("status", "--format", "json").stdout)

    assert [row["changes"] for row in rows] == [1, 0]
    assert rows[0]["lag_seconds"] > rows[1]["lag_seconds"] == 0


def test_a_rebuild_ends_with_everything_indexed(followed):
    result = helios("rebuild", "--tenant", corpus.TENANT, "--format", "json")

    [row] = msgspec.json.decode(result.stdout)
    assert (row["tenant"], row["state"], row["entries"]) == (corpus.TENANT, "following", 3)


@pytest.mark.parametrize("command", ["status", "rebuild"])
@pytest.mark.parametrize(
    ("backend", "reason"),
    [("sqlite", "has no search index"), ("sqlite-memory", "no other process sees it")],
)
def test_there_must_be_an_index_that_others_see(monkeypatch, tmp_path, command, backend, reason):
    monkeypatch.setenv("HFS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HFS_STORAGE_BACKEND", backend)

    result = helios(command)

    assert result.exit_code == 2
    assert reason in result.stderr


@pytest.fixture
def selected(monkeypatch, tmp_path):
    """Select SQLite, whose database is there, with Elasticsearch at an address."""

    async def make_database():
        settings = helios_sqlite.SQLiteSettings(data_dir=str(tmp_path))
        async with helios_sqlite.open_data_provider(settings):
            pass

    def select(nodes):
        monkeypatch.setenv("HFS_DATA_DIR", str(tmp_path))
        monkeypatch.setenv("HFS_STORAGE_BACKEND", "sqlite-elasticsearch")
        monkeypatch.setenv("HFS_ELASTICSEARCH_NODES", nodes)

    asyncio.run(make_database())
    return select


@pytest.mark.parametrize("command", ["status", "rebuild"])
@pytest.mark.parametrize(
    ("variable", "words"),
    [("HFS_ELASTICSEARCH_TIMEOUT", "ConnectionTimeout"), (None, "within 0.3 seconds")],
)
def test_a_frozen_cluster_is_said_not_to_answer_after_one_bounded_attempt(
    selected, monkeypatch, command, variable, words
):
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        address = "http://{}:{}".format(*frozen.getsockname())
        selected(address)
        if variable is None:
            monkeypatch.setattr(index, "FIRST_RESPONSE_SECONDS", 0.3)
        else:
            monkeypatch.setattr(index, "FIRST_RESPONSE_SECONDS", 600)
            monkeypatch.setenv(variable, "0.3")

        result = helios(command)

    assert result.exit_code == 1
    assert words in result.stderr
    assert f"HFS_ELASTICSEARCH_NODES is {address}" in result.stderr


def test_a_cluster_that_is_down_is_named_with_its_setting(selected):
    selected("http://127.0.0.1:1")

    result = helios("status")

    assert result.exit_code == 1
    assert "did not respond (ConnectionError)" in result.stderr
    assert "HFS_ELASTICSEARCH_NODES is http://127.0.0.1:1" in result.stderr
