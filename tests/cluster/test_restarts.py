"""Processes that come, go and wait, as an upgrade or a bad network has them."""

import signal
import time
from collections import Counter

import pytest

from tests.cluster.stores import current_at, versions
from tests.processes import POLL_SECONDS
from tests.proxies import Proxy
from tests.services import through

pytestmark = pytest.mark.crash

TIMEOUT_SECONDS = 4
MARGIN_SECONDS = 2
"""For a loaded machine to notice a signal, and an ended process."""


@pytest.fixture
def busy(cluster, bundles):
    """A cluster with two servers, two workers and data for many small shards."""
    cluster.settings |= {
        "HFS_BULK_EXPORT_PART_BYTES": "40000",
        "HFS_WORKER_SHUTDOWN_TIMEOUT": str(TIMEOUT_SECONDS),
    }
    cluster.run("load", *bundles[0])
    cluster.grow(servers=2, workers=2)
    return cluster


def completed_shards(cluster):
    found = (e for e in cluster.events() if e["event"] == "shard.completed")
    return Counter((event["job_id"], event["shard"]) for event in found)


def wait_for(process, event):
    while not any(found["event"] == event for found in process.events()):
        assert process.process.poll() is None, process.output()
        time.sleep(POLL_SECONDS)


def test_a_rolling_restart_loses_and_repeats_no_published_work(busy):
    """Every member is replaced in turn, as an upgrade does it."""
    client = busy.client()
    status = client.kick_off()
    while len(completed_shards(busy)) < 3:
        time.sleep(POLL_SECONDS)

    for member in busy.members:
        assert member.process.stop() == 0
        member.start()
    manifest = client.manifest(status)

    expected = current_at(
        busy.settings["HFS_DATABASE_URL"], "default", manifest["transactionTime"]
    )
    assert versions(client.resources(manifest)) == expected
    assert set(completed_shards(busy).values()) == {1}
    assert not any(event["event"] == "shard.failed" for event in busy.events())


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_process_stops_in_time_while_the_bucket_is_gone(busy, network, command):
    process = busy.start(command, HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER="false")
    busy.client().kick_off()
    wait_for(process, "shard.claimed")

    network.close()
    process.signal(signal.SIGTERM)

    assert process.process.wait(timeout=TIMEOUT_SECONDS + MARGIN_SECONDS) in (0, 1)


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_process_stops_in_time_while_postgresql_is_silent(
    busy, postgres_server, postgres_url, command
):
    """The connections are there, but nothing comes back any more."""
    with Proxy(postgres_server.address()) as proxy:
        process = busy.start(
            command,
            HFS_DATABASE_URL=through(postgres_url, proxy.port),
            HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER="false",
        )
        busy.client().kick_off()
        wait_for(process, "shard.claimed")

        proxy.freeze()
        process.signal(signal.SIGTERM)

        assert process.process.wait(timeout=TIMEOUT_SECONDS + MARGIN_SECONDS) in (0, 1)
