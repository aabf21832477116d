"""Eight exports at once while everything that can fail does: each is complete and exact."""

import json
import threading
import time
from contextlib import suppress

import httpx
import pytest

from tests.cluster.havoc import Havoc, published_by
from tests.cluster.stores import PUBLISHED, current_at, keys_in, query, versions
from tests.proxies import Fault

pytestmark = pytest.mark.crash

TENANTS = ("north", "south", "east")
EXPORTS = ("north", "north", "north", "south", "south", "south", "east", "east")
HAVOC_SECONDS = 25
RESTART_AFTER_SECONDS = 5
MIN_KILLS = 6
BAD_DAY = {
    Fault.ERROR_500: 0.05,
    Fault.ERROR_503: 0.05,
    Fault.CUT_REQUEST: 0.04,
    Fault.CUT_RESPONSE: 0.04,
    Fault.DELAY: 0.15,
}


class Writer(threading.Thread):
    """Changes, adds and removes patients of one tenant until told to stop."""

    def __init__(self, client) -> None:
        super().__init__()
        self.client = client
        self.stopped = threading.Event()
        self.writes = 0

    def run(self) -> None:
        while not self.stopped.wait(0.05):
            path = f"/Patient/written-{self.writes % 7}"
            patient = {"resourceType": "Patient", "id": path.rpartition("/")[2]}
            with suppress(httpx.TransportError):
                if self.writes % 3 == 2:
                    self.client.http.delete(path)
                else:
                    self.client.put(patient | {"birthDate": f"{1900 + self.writes % 99}-01-01"})
                self.writes += 1


def load(cluster, bundles):
    loads = [
        cluster.start("load", *share, "--tenant", tenant)
        for tenant, share in zip(TENANTS, bundles, strict=True)
    ]
    for process in loads:
        assert process.process.wait(timeout=120) == 0, process.output()


def under_way(client, job):
    return client.http.get(job).status_code == 202


def test_eight_exports_survive_kills_sleep_a_restart_and_a_bad_network(
    cluster, bundles, bucket, network, postgres_server
):
    cluster.settings |= {
        "HFS_BULK_EXPORT_PART_BYTES": "100000",
        "HFS_BULK_EXPORT_MAX_CONCURRENT_PER_TENANT": "8",
    }
    load(cluster, bundles)
    cluster.grow(servers=2, workers=4)
    clients = {tenant: cluster.client(tenant) for tenant in TENANTS}
    writers = [Writer(cluster.client(tenant)) for tenant in TENANTS]
    for writer in writers:
        writer.start()
    jobs = [(tenant, clients[tenant].kick_off()) for tenant in EXPORTS]

    network.faults = BAD_DAY
    havoc = Havoc(cluster, seed=5)
    began = time.monotonic()
    for second in range(1, HAVOC_SECONDS):
        time.sleep(max(0, began + second - time.monotonic()))
        havoc.strike()
        if second == RESTART_AFTER_SECONDS and postgres_server.restartable:
            postgres_server.restart()
        if not any(under_way(clients[tenant], job) for tenant, job in jobs):
            break
    network.faults = {}
    havoc.calm_down()
    manifests = [(tenant, path, clients[tenant].manifest(path)) for tenant, path in jobs]
    for writer in writers:
        writer.stopped.set()
        writer.join()

    assert havoc.kills >= MIN_KILLS, "the exports were over before there was havoc"
    assert min(network.done[fault] for fault in BAD_DAY) > 0
    for tenant, _, manifest in manifests:
        found = versions(clients[tenant].resources(manifest))
        assert found == current_at(
            cluster.settings["HFS_DATABASE_URL"], tenant, manifest["transactionTime"]
        )
        assert manifest["error"] == []
    assert_only_what_was_completed_is_listed(cluster)
    sleeper = havoc.sleeper
    assert sleeper is not None
    assert sleeper.lost
    assert not sleeper.lost & published_by(sleeper.process)
    assert min(writer.writes for writer in writers) > MIN_KILLS
    for tenant, path, _ in manifests:
        assert clients[tenant].http.delete(path).status_code == 202
    deadline = time.monotonic() + 20
    while keys_in(bucket) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert keys_in(bucket) == []


def assert_only_what_was_completed_is_listed(cluster):
    rows = query(cluster.settings["HFS_DATABASE_URL"], PUBLISHED)

    assert rows
    for row in rows:
        assert json.loads(row["part"])["key"]["token"] == row["completed_under"]
