"""Processes that come, go and wait, as an upgrade or a bad network has them."""

import signal
import time
from collections import Counter

import pytest

from tests.cluster.sites import WORKING
from tests.cluster.stores import QUICK, versions
from tests.pace import scaled, wait_for_end
from tests.processes import POLL_SECONDS, export_until, holds_a_shard
from tests.proxies import Proxy

pytestmark = pytest.mark.crash

TIMEOUT_SECONDS = 2
MARGIN_SECONDS = 2
"""On an idle machine, for noticing a signal and the end of a process."""


@pytest.fixture
def loaded(cluster, bundles):
    """A cluster of no process, with data for many small shards."""
    cluster.settings |= {
        "HFS_BULK_EXPORT_PART_BYTES": "40000",
        "HFS_WORKER_SHUTDOWN_TIMEOUT": str(scaled(TIMEOUT_SECONDS)),
    }
    cluster.run("load", *bundles[0][::2])
    return cluster


def completed_shards(cluster):
    found = (e for e in cluster.events() if e["event"] == "shard.completed")
    return Counter((event["job_id"], event["shard"]) for event in found)


def both_at_work(cluster, **settings):
    """A server that works too and a worker, each with a shard in its hands."""
    cluster.grow(servers=1, workers=0)
    settings |= {"HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER": "false"}
    processes = [cluster.start(command, **settings) for command in ("serve", "worker")]
    for process in processes:
        process.wait_for(WORKING)
    export_until(cluster.client(), processes, holds_a_shard)
    return processes


def handed_back(process):
    """Whether a process that has ended holds no shard: all it claimed are done or given back."""
    events = Counter(event["event"] for event in process.events())
    given_back = ("shard.completed", "shard.released", "shard.abandoned", "shard.waiting")
    return sum(events[name] for name in given_back) >= events["shard.claimed"]


def assert_they_stop_in_time(processes, cluster):
    timeout = float(cluster.settings["HFS_WORKER_SHUTDOWN_TIMEOUT"])
    began = time.monotonic()
    for process in processes:
        process.signal(signal.SIGTERM)
    for process in processes:
        wait_for_end(process.process)
        assert handed_back(process) or process.events()[-1]["event"] == "process.stop_overdue"
    assert time.monotonic() - began < timeout + scaled(MARGIN_SECONDS)


@pytest.mark.parametrize("database", QUICK, indirect=True)
def test_a_rolling_restart_loses_and_repeats_no_published_work(loaded, database):
    """Every member is replaced in turn, as an upgrade does it."""
    loaded.grow(servers=2, workers=2)
    client = loaded.client()
    status = client.kick_off()
    while len(completed_shards(loaded)) < 3:
        time.sleep(POLL_SECONDS)

    for member in loaded.members:
        assert member.process.stop() == 0
        member.start()
    manifest = client.manifest(status)

    expected = database.current_at("default", manifest["transactionTime"])
    assert versions(client.resources(manifest)) == expected
    assert set(completed_shards(loaded).values()) == {1}
    assert not any(event["event"] == "shard.failed" for event in loaded.events())


def test_processes_stop_in_time_while_the_bucket_is_gone(loaded, network):
    processes = both_at_work(loaded)

    network.close()

    assert_they_stop_in_time(processes, loaded)


@pytest.mark.parametrize("database", QUICK, indirect=True)
def test_processes_stop_in_time_while_the_database_is_silent(loaded, database):
    """The connections are there, but nothing comes back any more."""
    with Proxy(database.server.address()) as proxy:
        processes = both_at_work(loaded, **database.behind(proxy.port))

        proxy.freeze()

        assert_they_stop_in_time(processes, loaded)
