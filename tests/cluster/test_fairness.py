"""One tenant's queue does not keep another tenant waiting."""

import time

import pytest

from tests.processes import POLL_SECONDS
from tests.proxies import Fault

pytestmark = pytest.mark.crash

QUEUED = 100


def claims(cluster):
    """The jobs whose shards were claimed, in that order."""
    events = (event for event in cluster.events() if event["event"] == "shard.claimed")
    return [e["job_id"] for e in sorted(events, key=lambda e: e["timestamp"])]


def test_a_hundred_queued_exports_delay_another_tenants_by_one_shard_at_most(cluster, network):
    cluster.settings |= {
        "HFS_BULK_EXPORT_MAX_CONCURRENT_PER_TENANT": str(QUEUED),
        "HFS_BULK_EXPORT_WORKER_CONCURRENCY": "1",
    }
    cluster.grow(servers=1, workers=0)
    many, one = cluster.client("many"), cluster.client("one")
    for client in (many, one):
        client.put({"resourceType": "Patient", "id": "p"})
    queue = [many.kick_off(_type="Patient") for _ in range(QUEUED)]
    # Every request of a shard is delayed, so that the queue is long in time too.
    network.faults = {Fault.DELAY: 1.0}
    cluster.grow(servers=0, workers=1)
    while len(claims(cluster)) < 2:
        time.sleep(POLL_SECONDS)

    status = one.kick_off(_type="Patient")
    before = len(claims(cluster))
    manifest = one.manifest(status)

    position = claims(cluster).index(status.rpartition("/")[2])
    assert position - before <= 1
    assert [entry["count"] for entry in manifest["output"]] == [1]
    assert many.http.get(queue[-1]).status_code == 202
