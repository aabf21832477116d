"""kill -9 of a real server that indexes: the index ends complete, and searches lack nothing."""

import json
import time
from collections import Counter

import pytest

from helios_core.cli.demo.population import write_population
from helios_elasticsearch.mappings import LAYOUT
from tests.elasticsearches import documents
from tests.pace import Deadline
from tests.processes import POLL_SECONDS, Site

pytestmark = [pytest.mark.crash, pytest.mark.process]

RESOURCES = 2000
SECONDS = 30
TYPES = ("Observation", "Patient")


@pytest.fixture
def indices(elasticsearch_server, elasticsearch_prefix):
    return f"{elasticsearch_server}/{elasticsearch_prefix}"


@pytest.fixture
def site(tmp_path, elasticsearch_server, elasticsearch_prefix):
    site = Site(
        tmp_path,
        HFS_STORAGE_BACKEND="sqlite-elasticsearch",
        HFS_ELASTICSEARCH_NODES=elasticsearch_server,
        HFS_ELASTICSEARCH_PREFIX=elasticsearch_prefix,
        HFS_SEARCH_INDEX_INTERVAL="0.1",
    )
    yield site
    site.end()


@pytest.fixture
def loads(tmp_path):
    """Two folders, and how many resources of each type there are when each is loaded."""
    first, second = tmp_path / "first", tmp_path / "second"
    counts = write_population(first, resources=RESOURCES)
    second.mkdir()
    (first / "Observation.ndjson").rename(second / "Observation.ndjson")
    return (first, counts - Counter(Observation=RESOURCES)), (second, counts)


def test_an_index_whose_process_is_killed_ends_complete(site, loads, indices):
    (first, some), (second, all_of_them) = loads
    site.run("migrate")
    site.run("load", str(first))
    server, client = site.serve()
    assert_complete(client, some)
    wait_until(lambda: documents(f"{indices}-{LAYOUT}-r4-*") == some.total())

    site.run("load", str(second))
    wait_until(lambda: documents(f"{indices}-{LAYOUT}-r4-*") > some.total())
    server.kill()
    server, client = site.serve()
    assert_complete(client, all_of_them)
    wait_until(lambda: documents(f"{indices}-{LAYOUT}-r4-*") == all_of_them.total())
    assert_complete(client, all_of_them)

    server.kill()
    [row] = json.loads(site.run("index", "status", "--format", "json"))
    assert row["state"] == "following"
    assert row["entries"] == all_of_them.total()


def assert_complete(client, counts):
    """Compare totals, which the index finds as soon as it can be used."""
    for name in TYPES:
        query = {"_lastUpdated": "gt2000", "_summary": "count"}
        assert client.http.get(f"/{name}", params=query).json()["total"] == counts[name]


def wait_until(condition):
    deadline = Deadline(SECONDS)
    while not condition():
        assert not deadline.has_passed()
        time.sleep(POLL_SECONDS)
