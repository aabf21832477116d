"""Several servers remove what has expired, all of them at once."""

import time

import pytest

from tests.pace import Deadline, scaled
from tests.processes import POLL_SECONDS, Site

EXPORTS = 12
SECONDS = 30
TROUBLE = {"sweep.failed", "job.removal_failed", "output.removal_failed", "request.failed"}


@pytest.fixture
def site(tmp_path):
    site = Site(
        tmp_path,
        HFS_BULK_EXPORT_OUTPUT_TTL=str(scaled(1)),
        HFS_BULK_EXPORT_CLEANUP_INTERVAL="0.05",
        HFS_BULK_EXPORT_MAX_CONCURRENT_PER_TENANT=str(EXPORTS),
    )
    yield site
    site.end()


def until(holds):
    deadline = Deadline(SECONDS)
    while not holds():
        assert not deadline.has_passed()
        time.sleep(POLL_SECONDS)


def status(client, path):
    return client.http.get(path).status_code


def test_servers_that_sweep_at_once_remove_everything_once_and_nothing_else(site):
    servers, clients = zip(*(site.serve() for _ in range(2)), strict=True)
    for number in range(20):
        clients[0].put({"resourceType": "Patient", "id": f"p{number}"})
    output = site.folder / "data" / "exports"
    kept = clients[0].kick_off(_type="Patient")
    assert len(clients[1].resources(clients[1].manifest(kept))) == 20

    paths = [clients[number % 2].kick_off() for number in range(EXPORTS - 1)]
    until(lambda: all(status(clients[0], path) == 404 for path in [kept, *paths]))
    until(lambda: not [file for file in output.rglob("*") if file.is_file() and file.suffix])

    again = clients[1].kick_off(_type="Patient")
    assert len(clients[0].resources(clients[0].manifest(again))) == 20
    events = [each for server in servers for each in server.events()]
    assert not [each for each in events if each["event"] in TROUBLE]
    assert not [each for each in events if each["level"] == "error"]
    removed = [each["job_id"] for each in events if each["event"] == "job.removed"]
    assert {path.rsplit("/", 1)[1] for path in [kept, *paths]} <= set(removed)
    assert all(server.process.poll() is None for server in servers)


def test_workers_do_not_sweep(site):
    server, client = site.serve(HFS_BULK_EXPORT_CLEANUP_INTERVAL="1000")
    worker = site.start("worker")
    client.put({"resourceType": "Patient", "id": "p1"})
    path = client.kick_off()
    client.manifest(path)

    time.sleep(float(site.settings["HFS_BULK_EXPORT_OUTPUT_TTL"]) + 1)

    assert status(client, path) == 200
    assert not [each for each in worker.events() if each["event"] == "job.removed"]
    assert server.stop() == 0
