"""kill -9 of real processes at any moment: the job completes exactly, nothing done is repeated."""

import random
import signal
import sqlite3
import time
from contextlib import closing, suppress

import pymongo
import pytest

from tests.crash.exports import assert_exact, completed_shards, freeze, until
from tests.processes import holds_a_shard, names, same_port

pytestmark = pytest.mark.crash

ENDED = {"shard.completed", "shard.cancelled", "lease.lost", "shard.abandoned"}
"""What a worker logs when it is done with a shard."""


def has_versions(site) -> bool:
    """Return whether a site's database holds anything yet."""
    if site.settings.get("HFS_STORAGE_BACKEND") == "mongodb":
        with pymongo.MongoClient(site.settings["HFS_DATABASE_URL"]) as client:
            database = client[site.settings["HFS_MONGODB_DATABASE"]]
            return database.versions.find_one() is not None
    database = site.folder / "data" / "helios.db"
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(database)) as probe:
        return probe.execute("SELECT count(*) FROM versions").fetchone() != (0,)
    return False


def until_it_works(process, client, jobs):
    """Wait until a process has claimed a shard; where the last job is over, begin another."""

    def works():
        if client.http.get(jobs[-1]).status_code == 200:
            jobs.append(client.kick_off())
        return holds_a_shard(process)

    until(works)


def claims(site):
    """Count the shards that were claimed, each as often as it was."""
    events = (event for process in site.processes for event in process.events())
    return sum(event["event"] == "shard.claimed" for event in events)


@pytest.mark.parametrize(
    ("site", "seed"),
    [("sqlite", 1), ("sqlite", 2), ("sqlite", 3), ("mongodb", 4)],
    indirect=["site"],
)
def test_a_server_killed_again_and_again_completes_its_jobs_exactly(loaded, population, seed):
    chance = random.Random(seed)
    server, client = loaded.serve()
    port = same_port(client)
    jobs = [client.kick_off()]

    for _ in range(4):
        until_it_works(server, client, jobs)
        time.sleep(chance.uniform(0, 0.4))
        server.kill()
        server, client = loaded.serve(**port)

    for job in jobs:
        assert_exact(client, job, population[1])
    assert set(completed_shards(loaded).values()) == {1}
    assert claims(loaded) > completed_shards(loaded).total()


@pytest.mark.parametrize("site", ["sqlite", "mongodb"], indirect=True)
def test_workers_killed_again_and_again_lose_and_repeat_nothing(loaded, population):
    _, client = loaded.serve(HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER="true")
    jobs = [client.kick_off()]
    chance = random.Random(4)
    workers = [loaded.start("worker") for _ in range(2)]

    for _ in range(6):
        victim = chance.randrange(2)
        until_it_works(workers[victim], client, jobs)
        time.sleep(chance.uniform(0, 0.4))
        workers[victim].kill()
        workers[victim] = loaded.start("worker")

    for job in jobs:
        assert_exact(client, job, population[1])
    assert set(completed_shards(loaded).values()) == {1}
    assert claims(loaded) > completed_shards(loaded).total()


def test_a_worker_that_slept_past_its_lease_publishes_nothing(loaded, population):
    _, client = loaded.serve(HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER="true")
    status = client.kick_off()
    sleeper = loaded.start("worker")
    until(lambda: holds_a_shard(sleeper))

    freeze(sleeper.process, loaded)
    loaded.start("worker")
    client.manifest(status)
    sleeper.signal(signal.SIGCONT)
    until(lambda: any(event["event"] in ENDED for event in sleeper.events()))

    assert_exact(client, status, population[1])
    assert set(completed_shards(loaded).values()) == {1}


def test_a_graceful_stop_hands_its_shards_back_at_once(loaded, population):
    long_lease = {"HFS_BULK_EXPORT_LEASE_DURATION": "600"}
    server, client = loaded.serve(**long_lease)
    status = client.kick_off()
    until(lambda: holds_a_shard(server))

    assert server.stop() == 0
    _, client = loaded.serve(**long_lease, **same_port(client))

    assert_exact(client, status, population[1])
    assert set(completed_shards(loaded).values()) == {1}


@pytest.mark.parametrize("site", ["sqlite", "mongodb"], indirect=True)
def test_a_load_killed_half_way_and_repeated_leaves_no_doubles(site, population):
    """On MongoDB the second load ends the transaction that the first has left."""
    folder, expected = population
    load = site.start("load", str(folder))
    until(lambda: load.process.poll() is not None or has_versions(site))
    load.kill()

    site.run("load", str(folder))
    _, client = site.serve(HFS_BULK_EXPORT_PART_BYTES="10000000")

    assert names(client.export()) == expected


def test_an_acknowledged_write_survives_a_kill(site):
    server, client = site.serve()
    for number in range(20):
        client.put({"resourceType": "Patient", "id": f"p{number}"})
    server.kill()

    _, client = site.serve()

    assert names(client.export()) == sorted(f"Patient/p{n}" for n in range(20))


def test_output_of_a_job_deleted_while_workers_write_is_gone_after_a_restart(loaded):
    server, client = loaded.serve()
    status = client.kick_off()
    until(lambda: holds_a_shard(server))
    assert client.http.delete(status).status_code == 202
    server.kill()

    server, client = loaded.serve()

    assert client.http.get(status).status_code == 404
    exports = loaded.folder / "data" / "exports"
    until(lambda: not list(exports.glob("*/*/*")))
