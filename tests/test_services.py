"""The services that tests are given do what the tests need of them."""

import asyncio
import subprocess
import uuid
from unittest.mock import Mock

import asyncpg
import httpx
import pymongo
import pytest

from helios_core.fhir.definitions import FHIRVersion
from tests import hapi_validator, keycloaks, maven, services
from tests.elasticsearches import (
    RELEASES,
    documents,
    drop_indices,
    elasticsearch,
    own_elasticsearch,
)
from tests.hapi_validator import HAPI
from tests.keycloaks import keycloak
from tests.services import absent, minio_endpoint, postgres, s3_endpoint


def ask(url, statement):
    async def asking():
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(asking())


def test_a_database_survives_the_restart_of_its_server(postgres_server, postgres_url):
    ask(postgres_url, "CREATE TABLE kept AS SELECT 1 AS one")
    started = "SELECT pg_postmaster_start_time()"
    before = ask(postgres_url, started)

    postgres_server.restart()

    assert ask(postgres_url, "SELECT one FROM kept") == 1
    assert ask(postgres_url, started) > before


def test_a_database_is_gone_after_its_test(postgres_server):
    with postgres_server.database() as url:
        name = ask(url, "SELECT current_database()")

    with postgres_server.database() as url:
        names = ask(url, "SELECT string_agg(datname, ' ') FROM pg_database").split()

    assert name not in names


def test_a_copy_of_a_database_is_a_tests_own(postgres_server):
    kept, rows = "SELECT to_regclass('kept')::text", "SELECT count(*) FROM helios.versions"
    with postgres_server.database(migrated=True) as url:
        ask(url, "CREATE TABLE kept AS SELECT 1 AS one")

        with postgres_server.database(like=url) as copy:
            ask(copy, "DROP TABLE kept")
            assert (ask(copy, kept), ask(copy, rows)) == (None, 0)
        with postgres_server.database(migrated=True) as other:
            assert (ask(other, kept), ask(other, rows)) == (None, 0)

        assert ask(url, kept) == "kept"


def test_a_database_goes_although_a_transaction_was_left_open(mongodb_server):
    with pymongo.MongoClient(mongodb_server.url) as client, mongodb_server.database() as name:
        documents = client[name].documents
        documents.insert_one({"_id": 0})
        with client.start_session() as session:
            session.start_transaction()
            documents.update_one({"_id": 0}, {"$set": {"left": "open"}}, session=session)
            # Its owner was killed: nobody aborts it.
            session._transaction.reset()

    with pymongo.MongoClient(mongodb_server.url) as client:
        assert name not in client.list_database_names()


def test_a_bucket_keeps_what_is_put_into_it(minio_bucket):
    client = minio_bucket.client()

    client.put_object(Bucket=minio_bucket.name, Key="a/b", Body=b"bytes")

    assert client.get_object(Bucket=minio_bucket.name, Key="a/b")["Body"].read() == b"bytes"


def test_what_cannot_be_had_here_is_skipped_even_where_everything_is_required(monkeypatch):
    monkeypatch.setenv("HFS_TEST_REQUIRE", "all")

    with pytest.raises(pytest.skip.Exception, match="no such thing"):
        absent("no such thing", obtainable=False)


def test_what_can_be_had_fails_where_everything_is_required(monkeypatch):
    monkeypatch.setenv("HFS_TEST_REQUIRE", "all")

    with pytest.raises(pytest.fail.Exception, match="no such thing"):
        absent("no such thing")


@pytest.mark.parametrize(
    ("go", "outcome"), [("/usr/bin/go", pytest.fail.Exception), (None, pytest.skip.Exception)]
)
def test_minio_is_required_where_it_can_be_built(monkeypatch, tmp_path, go, outcome):
    monkeypatch.setenv("HFS_TEST_REQUIRE", "all")
    monkeypatch.delenv("HFS_TEST_S3_ENDPOINT", raising=False)
    monkeypatch.setattr(services, "MINIO", tmp_path / "minio")
    monkeypatch.setattr("shutil.which", lambda _: go)

    with pytest.raises(outcome, match="make services"), minio_endpoint(tmp_path):
        pass


@pytest.mark.parametrize(
    ("command", "outcome"),
    [("/usr/bin/any", pytest.fail.Exception), (None, pytest.skip.Exception)],
)
def test_keycloak_is_required_where_it_can_be_installed(monkeypatch, tmp_path, command, outcome):
    monkeypatch.setenv("HFS_TEST_REQUIRE", "all")
    monkeypatch.setattr(keycloaks, "KEYCLOAK", tmp_path / "keycloak")
    monkeypatch.setattr("shutil.which", lambda _: command)

    with pytest.raises(outcome, match="make services"), keycloak(tmp_path):
        pass


def test_all_who_name_a_folder_share_one_keycloak(keycloak_server, keycloak_folder):
    with keycloak(keycloak_folder) as second:
        assert second.url == keycloak_server.url
        assert second.admin("GET", "/master").json()["realm"] == "master"


@pytest.mark.parametrize(
    ("command", "unobtainable", "outcome"),
    [
        ("/usr/bin/any", False, pytest.fail.Exception),
        ("/usr/bin/any", True, pytest.skip.Exception),
        (None, False, pytest.skip.Exception),
    ],
)
def test_jars_are_required_where_they_can_be_installed(
    monkeypatch, tmp_path, command, unobtainable, outcome
):
    monkeypatch.setenv("HFS_TEST_REQUIRE", "all")
    monkeypatch.setattr(maven, "CACHE", tmp_path)
    monkeypatch.setattr("shutil.which", lambda _: command)
    if unobtainable:
        failing = Mock(side_effect=subprocess.CalledProcessError(1, "mvn"))
        monkeypatch.setattr(subprocess, "run", failing)

    for jars in (*RELEASES.values(), HAPI):
        if unobtainable:
            jars.install()
        with pytest.raises(outcome, match=f"there is no {jars.title}: `make services`"):
            jars.require()


def test_no_server_starts_without_its_jars(monkeypatch, tmp_path):
    monkeypatch.delenv("HFS_TEST_ELASTICSEARCH_URL", raising=False)
    monkeypatch.setattr(maven, "CACHE", tmp_path)
    monkeypatch.setattr("shutil.which", lambda _: None)

    for starting in (elasticsearch(tmp_path), own_elasticsearch(tmp_path)):
        with pytest.raises(pytest.skip.Exception, match="there is no Elasticsearch"), starting:
            pass
    with pytest.raises(pytest.skip.Exception, match="there is no HAPI validator"):
        hapi_validator.errors([], FHIRVersion.R4, tmp_path)


def test_the_server_of_a_release_says_its_version(elasticsearch_8_server):
    path = "/_nodes/_all/version?filter_path=nodes.*.version"
    answer = httpx.get(elasticsearch_8_server + path, timeout=60).json()

    assert [node["version"] for node in answer["nodes"].values()] == [RELEASES["8"].version]


def test_indices_of_one_prefix_are_dropped_and_no_others(elasticsearch_server):
    for name in ("helios-dropped-1", "helios-dropped-2", "helios-kept"):
        httpx.put(f"{elasticsearch_server}/{name}", timeout=60).raise_for_status()

    drop_indices(elasticsearch_server, "helios-dropped")

    url = f"{elasticsearch_server}/_cat/indices/helios-*?h=index"
    left = httpx.get(url, timeout=60).text.split()
    drop_indices(elasticsearch_server, "helios-kept")
    assert "helios-kept" in left
    assert not [name for name in left if name.startswith("helios-dropped")]


def test_documents_are_counted_once_every_shard_can_say(elasticsearch_server):
    index = f"{elasticsearch_server}/helios-counted-{uuid.uuid4().hex[:12]}"
    nowhere = {"settings": {"index.routing.allocation.include._name": "nobody"}}
    assert documents(index) == 0

    httpx.put(f"{index}?timeout=1ms", json=nowhere, timeout=60).raise_for_status()
    try:
        assert documents(index) == 0
        everywhere = {"index.routing.allocation.include._name": None}
        httpx.put(f"{index}/_settings", json=everywhere, timeout=60).raise_for_status()
        httpx.put(f"{index}/_doc/1?refresh=true", json={}, timeout=60).raise_for_status()
        assert documents(index) == 1
    finally:
        httpx.delete(index, timeout=60).raise_for_status()


def test_servers_that_are_given_are_used(monkeypatch, tmp_path):
    monkeypatch.setenv("HFS_TEST_POSTGRES_URL", "postgresql://somebody@db.example.org/postgres")
    monkeypatch.setenv("HFS_TEST_S3_ENDPOINT", "http://s3.example.org/")
    monkeypatch.setenv("HFS_TEST_ELASTICSEARCH_URL", "http://search.example.org:9200/")

    with elasticsearch(tmp_path) as url:
        assert url == "http://search.example.org:9200"
    with postgres() as server, minio_endpoint(tmp_path) as minio, s3_endpoint(tmp_path) as small:
        assert server.address() == ("db.example.org", 5432)
        assert minio == small == "http://s3.example.org"
        with pytest.raises(pytest.skip.Exception):
            server.restart()
