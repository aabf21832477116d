"""`helios index` on a cluster that does not answer."""

import asyncio
import socket

import pytest
from click.testing import CliRunner

import helios_sqlite
from helios_core.cli import index
from helios_core.cli.commands import app


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
            monkeypatch.setattr(index, "ANSWER_SECONDS", 0.3)
        else:
            monkeypatch.setattr(index, "ANSWER_SECONDS", 600)
            monkeypatch.setenv(variable, "0.3")

        result = CliRunner().invoke(app, ["index", command])

    assert result.exit_code == 1
    assert words in result.stderr
    assert f"HFS_ELASTICSEARCH_NODES is {address}" in result.stderr


def test_a_cluster_that_is_down_is_named_with_its_setting(selected):
    selected("http://127.0.0.1:1")

    result = CliRunner().invoke(app, ["index", "status"])

    assert result.exit_code == 1
    assert "did not answer (ConnectionError)" in result.stderr
    assert "HFS_ELASTICSEARCH_NODES is http://127.0.0.1:1" in result.stderr
