"""`helios index`: what it shows, and what it refuses."""

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest
from click.testing import CliRunner

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
