"""A database that is removed or replaced under a running server."""

import re
import sqlite3
import time
from contextlib import closing

import pytest

from tests.pace import Deadline
from tests.processes import Site

READY = re.compile(r"(Working) with")


def removed(data, name):
    (data / name).unlink()


def replaced(data, name):
    """A copy is moved to its place, as when a backup is restored."""
    copy = data / "copy"
    with closing(sqlite3.connect(data / name)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    copy.replace(data / name)


def log_removed(data, name):
    (data / f"{name}-wal").unlink()


def until(look):
    """Wait until something is so; a test that waits in vain is ended by this."""
    deadline = Deadline(60)
    while not (found := look()):
        assert not deadline.has_passed()
        time.sleep(0.05)
    return found


def put(client, resource_id):
    return client.http.put(
        f"/Patient/{resource_id}", json={"resourceType": "Patient", "id": resource_id}
    )


def replacements(process):
    return [each for each in process.events() if each["event"] == "database.replaced"]


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path, HFS_BULK_EXPORT_WORKER_CONCURRENCY="1")
    yield site
    site.end()


@pytest.mark.process
@pytest.mark.parametrize("damage", [removed, replaced, log_removed])
def test_a_server_whose_database_is_replaced_takes_nothing_more(site, damage):
    """What it took would be gone with its process."""
    process, client = site.serve()
    worker = site.start("worker")
    assert put(client, "p1").status_code == 201
    worker.wait_for(READY)
    assert client.http.get("/health").status_code == 200

    damage(site.folder / "data", "helios.db")

    refused = put(client, "p2")
    assert (refused.status_code, "replaced" in refused.text) == (503, True)
    kickoff = client.http.get("/$export", headers={"Prefer": "respond-async"})
    assert (kickoff.status_code, "replaced" in kickoff.text) == (503, True)
    for path in ("/health", "/_readiness"):
        answer = client.http.get(path)
        assert (answer.status_code, "replaced" in answer.text) == (503, True)
    assert client.http.get("/_liveness").status_code == 200
    for each in (process, worker):
        until(lambda each=each: len(replacements(each)) == 2)
        assert {event["holds"] for event in replacements(each)} == {"resources", "jobs"}


@pytest.mark.process
def test_a_database_that_is_put_back_is_used_again(site):
    _, client = site.serve()
    assert put(client, "p1").status_code == 201
    data = site.folder / "data"
    (data / "helios.db").rename(data / "elsewhere")
    assert put(client, "p2").status_code == 503

    (data / "elsewhere").rename(data / "helios.db")

    until(lambda: client.http.get("/health").status_code == 200)
    assert put(client, "p3").status_code == 201
