"""Eight exports at once while everything that can fail does: each is complete and exact."""

import itertools
import json
import threading
import time
from contextlib import contextmanager, suppress

import httpx
import pytest

from tests.cluster.havoc import Havoc, published_by
from tests.cluster.stores import QUICK, keys_in, versions
from tests.pace import Deadline, wait_for_end
from tests.processes import POLL_SECONDS
from tests.proxies import Fault, Proxy

pytestmark = pytest.mark.crash

TENANTS = ("north", "south", "east")
EXPORTS = ("north", "north", "north", "south", "south", "south", "east", "east")
MIN_KILLS = 6
MIN_WRITES = 7
HAVOC_SECONDS = 12
RESTART_AFTER_SECONDS = 4
CUT_EVERY_SECONDS = 2
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


@pytest.fixture
def wire(database):
    """What lies between the processes and the database."""
    with Proxy(database.server.address()) as proxy:
        yield proxy


@pytest.fixture
def crowd(cluster, bundles, database, wire):
    """Two servers and four workers, and three tenants with real data."""
    loads = [
        cluster.start("load", *share[::2], "--tenant", tenant)
        for tenant, share in zip(TENANTS, bundles, strict=True)
    ]
    for process in loads:
        assert wait_for_end(process.process, 120) == 0, process.output()
    cluster.settings |= {
        "HFS_BULK_EXPORT_PART_BYTES": "50000",
        "HFS_BULK_EXPORT_MAX_CONCURRENT_PER_TENANT": "8",
        **database.behind(wire.port),
    }
    cluster.grow(servers=2, workers=4)
    return cluster


@pytest.fixture
def havoc(crowd, network, wire, database):
    """What goes on for a while, or until nothing is under way any more."""

    def wreak(under_way):
        network.faults = BAD_DAY
        havoc = Havoc(crowd, seed=5)
        began, deadline = time.monotonic(), Deadline(4 * HAVOC_SECONDS)
        for second in itertools.count(1):
            time.sleep(max(0, began + second - time.monotonic()))
            havoc.strike()
            if second % CUT_EVERY_SECONDS == 0:
                wire.cut()
            if second == RESTART_AFTER_SECONDS and database.restartable:
                database.server.restart()
            enough = havoc.kills >= MIN_KILLS and all(network.done[fault] for fault in BAD_DAY)
            if (enough and second >= HAVOC_SECONDS) or not under_way():
                break
            assert not deadline.has_passed(), "so little happens"
        network.faults = {}
        havoc.calm_down()
        assert havoc.kills >= MIN_KILLS, "the exports were over before there was havoc"
        assert min(network.done[fault] for fault in BAD_DAY) > 0
        return havoc

    return wreak


@contextmanager
def writing(cluster):
    """Have somebody write to every tenant."""
    writers = [Writer(cluster.client(tenant)) for tenant in TENANTS]
    for writer in writers:
        writer.start()
    deadline = Deadline(60)
    try:
        yield
        while min(writer.writes for writer in writers) < MIN_WRITES:
            assert not deadline.has_passed(), "nobody can write"
            time.sleep(POLL_SECONDS)
    finally:
        for writer in writers:
            writer.stopped.set()
            writer.join()


@pytest.mark.parametrize(
    "database", [*QUICK, pytest.param("s3", marks=pytest.mark.in_turn)], indirect=True
)
def test_eight_exports_survive_kills_sleep_a_restart_and_bad_networks(
    crowd, havoc, bucket, database
):
    clients = {tenant: crowd.client(tenant) for tenant in TENANTS}

    with writing(crowd):
        jobs = [(clients[tenant], tenant, clients[tenant].kick_off()) for tenant in EXPORTS]
        sleeper = havoc(
            lambda: any(client.http.get(job).status_code == 202 for client, _, job in jobs)
        ).sleeper
        manifests = [client.manifest(job, seconds=120) for client, _, job in jobs]

    for (client, tenant, _), manifest in zip(jobs, manifests, strict=True):
        found = versions(client.resources(manifest))
        assert found == database.current_at(tenant, manifest["transactionTime"])
        assert manifest["error"] == []
    assert_only_what_was_completed_is_listed(database)
    assert sleeper.lost
    assert not sleeper.lost & published_by(sleeper.process)
    assert [event for event in crowd.events() if event["event"] == "request.crashed"] == []
    for client, _, job in jobs:
        assert client.http.delete(job).status_code == 202
    assert_nothing_stays(bucket)


def assert_only_what_was_completed_is_listed(database):
    published = database.published()

    assert published
    for part, completed_under in published:
        assert json.loads(part)["key"]["token"] == completed_under


def assert_nothing_stays(bucket):
    deadline = Deadline(60)
    while keys_in(bucket) and not deadline.has_passed():
        time.sleep(0.2)
    assert keys_in(bucket) == []
