"""A full disk delays a job or ends it with the reason, and lists nothing half-written."""

import time
from contextlib import suppress

import pytest

from tests.processes import POLL_SECONDS, names
from tests.small_disks import mounted

pytestmark = pytest.mark.crash


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    with mounted(tmp_path / "small", "1m") as folder:
        yield folder


def fill(path):
    """Write until nothing more fits."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def test_an_export_onto_a_full_disk_fails_clearly_and_a_later_one_works(
    loaded, population, small_disk
):
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 900_000)
    loaded.settings |= {
        "HFS_BULK_EXPORT_OUTPUT_DIR": str(small_disk),
        "HFS_BULK_EXPORT_MAX_ATTEMPTS": "1",
        "HFS_BULK_EXPORT_LEASE_DURATION": "60",
        "HFS_BULK_EXPORT_OUTAGE_PATIENCE": "0.1",
    }
    _, client = loaded.serve()

    status = client.kick_off()
    while (response := client.http.get(status)).status_code == 202:
        time.sleep(POLL_SECONDS)

    assert response.status_code == 500
    outcome = response.json()
    assert outcome["resourceType"] == "OperationOutcome"
    assert "space" in str(outcome)
    assert client.http.get(status).status_code == 500
    assert client.http.delete(status).status_code == 202
    filler.unlink()
    wanted = [name for name in population[1] if name.startswith("Patient/")]
    assert names(client.export(_type="Patient")) == wanted


def test_an_export_outlives_a_full_disk_that_is_freed(loaded, population, small_disk):
    filler = small_disk / "filler"
    loaded.settings |= {
        "HFS_BULK_EXPORT_OUTPUT_DIR": str(small_disk),
        "HFS_BULK_EXPORT_MAX_ATTEMPTS": "1",
        "HFS_BULK_EXPORT_LEASE_DURATION": "60",
    }
    server, client = loaded.serve()
    fill(filler)
    status = client.kick_off(_type="Patient")
    while (response := client.http.get(status)).status_code == 202:
        if "waiting, " in response.headers["X-Progress"]:
            break
        time.sleep(POLL_SECONDS)
    assert "space" in response.headers["X-Progress"]
    assert client.http.get("/health").json()["status"] == "degraded"

    filler.unlink()

    wanted = [name for name in population[1] if name.startswith("Patient/")]
    assert names(client.resources(client.manifest(status))) == wanted
    assert client.http.get("/health").json() == {"status": "ok"}
    assert not any(event["event"] == "shard.failed" for event in server.events())
