"""A bucket that is away for longer than all attempts together: nothing listens at its address."""

import time

import pytest

from tests.cluster.stores import keys_in, versions
from tests.pace import Deadline
from tests.processes import POLL_SECONDS
from tests.services import a_bucket

pytestmark = pytest.mark.crash

ATTEMPTS = 2
"""So many failures would end an export, if they counted."""
SECONDS = 300
"""An idle machine takes less."""
HASTY = """
from helios_s3 import buckets

buckets.RETRIES = buckets.retries(most=3, seconds=5)
"""
"""Every process begins with it; else the driver asks for half a minute before it gives up."""
POSTPONED = "SELECT coalesce(max(postponed), 0) FROM helios.shards"


@pytest.fixture
def bucket(own_minio):
    with a_bucket(own_minio.url) as bucket:
        yield bucket


@pytest.fixture
def network(own_minio):
    """Nothing lies between the cluster and its bucket."""
    return own_minio


@pytest.fixture
def loaded(cluster, bundles, tmp_path):
    """A cluster of no process, with data for many small shards, whose driver soon gives up."""
    hasty = tmp_path / "hasty"
    hasty.mkdir()
    (hasty / "sitecustomize.py").write_text(HASTY)
    cluster.settings |= {
        "PYTHONPATH": str(hasty),
        "HFS_BULK_EXPORT_PART_BYTES": "40000",
        "HFS_BULK_EXPORT_MAX_ATTEMPTS": str(ATTEMPTS),
        # None lapses on a machine that is busy, which would count as an attempt.
        "HFS_BULK_EXPORT_LEASE_DURATION": "60",
    }
    cluster.run("load", *bundles[0][::2])
    return cluster


def wait_until(cluster, condition):
    deadline = Deadline(SECONDS)
    while not (found := condition()):
        assert all(member.process.process.poll() is None for member in cluster.members)
        assert not deadline.has_passed(), "it never came"
        time.sleep(POLL_SECONDS)
    return found


def logged(cluster, name):
    return [event for event in cluster.events() if event["event"] == name]


def test_an_export_outlives_a_bucket_that_is_away_for_longer_than_all_attempts(
    loaded, own_minio, bucket, database
):
    loaded.grow(servers=2, workers=2)
    client = loaded.client()
    status = client.kick_off()
    wait_until(loaded, lambda: logged(loaded, "shard.completed"))

    own_minio.stop()
    wait_until(loaded, lambda: database.query(POSTPONED)[0][0] > ATTEMPTS)
    response = client.http.get(status)
    health = loaded.client_of(loaded.servers[0]).http.get("/health")
    own_minio.start()
    manifest = client.manifest(status, SECONDS)

    assert response.status_code == 202
    assert "waiting, the output bucket cannot be reached" in response.headers["X-Progress"]
    assert health.status_code == 503
    assert "do not respond: output store." in health.text
    silent = {(each["backend"], each["reason"]) for each in logged(loaded, "backend.unresponsive")}
    assert silent == {("output store", "the output bucket cannot be reached")}
    expected = database.current_at("default", manifest["transactionTime"])
    assert versions(client.resources(manifest)) == expected
    assert manifest["error"] == []
    assert logged(loaded, "shard.failed") == []
    assert {event["attempt"] for event in logged(loaded, "shard.claimed")} == {1}
    assert client.http.get("/health").json() == {"status": "ok"}
    assert client.http.delete(status).status_code == 202
    wait_until(loaded, lambda: not keys_in(bucket))


def test_without_patience_an_export_ends_with_what_it_waited_for(loaded, own_minio):
    loaded.settings["HFS_BULK_EXPORT_OUTAGE_PATIENCE"] = "1"
    loaded.grow(servers=1, workers=2)
    client = loaded.client()

    own_minio.stop()
    status = client.kick_off()
    response = wait_until(
        loaded,
        lambda: found if (found := client.http.get(status)).status_code != 202 else None,
    )
    own_minio.start()

    assert response.status_code == 500
    assert response.json()["resourceType"] == "OperationOutcome"
    assert "the output bucket cannot be reached" in response.text
    assert max(event["attempt"] for event in logged(loaded, "shard.failed")) == ATTEMPTS
    assert client.manifest(client.kick_off(), SECONDS)["output"]
