"""Workers that have processes of their own: they go on without each other, and never alone."""

import signal
import time

import psutil
import pytest

from tests.crash.exports import assert_exact, completed_shards, freeze, until
from tests.pace import scaled
from tests.processes import POLL_SECONDS, same_port

pytestmark = pytest.mark.crash


def worker_of(process):
    """Return the other process of a server or worker that has two workers."""
    [child] = until(lambda: psutil.Process(process.process.pid).children())
    return child


def has_ended(child):
    return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def events(process, name):
    return [event for event in process.events() if event["event"] == name]


def workers_of(process):
    """Name the workers that have completed something, each with its process."""
    return {event["worker"] for event in events(process, "shard.completed")}


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_two_workers_of_one_command_are_two_processes(loaded, population, command):
    _, client = loaded.serve(HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER="true")
    process = loaded.start(command)
    child = worker_of(process)
    until(lambda: events(process, "worker.ready"))

    # One of them may be so far ahead that it does an export alone.
    while {int(name.split("-")[-2]) for name in workers_of(process)} != {
        process.process.pid,
        child.pid,
    }:
        assert_exact(client, client.kick_off(), population[1])


def test_a_killed_worker_is_replaced_and_its_shard_done_again(loaded, population):
    server, client = loaded.serve()
    first = worker_of(server)
    until(lambda: events(server, "worker.ready"))
    status = client.kick_off()
    while not any(str(first.pid) in e["worker"] for e in events(server, "shard.claimed")):
        if client.http.get(status).status_code == 200:  # the other worker did it alone
            status = client.kick_off()
        time.sleep(POLL_SECONDS)

    first.kill()

    assert_exact(client, status, population[1])
    assert set(completed_shards(loaded).values()) == {1}
    assert until(lambda: events(server, "worker.died"))[0]["code"] == -signal.SIGKILL
    assert until(lambda: len(events(server, "worker.started")) > 1)
    assert worker_of(server).pid != first.pid


def test_a_worker_whose_parent_was_killed_hands_its_shard_back_and_ends(loaded, population):
    """The lease is so long that the export would otherwise stand still."""
    loaded.settings["HFS_BULK_EXPORT_LEASE_DURATION"] = "600"
    _, client = loaded.serve(HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER="true")
    parent = loaded.start("worker")
    child = worker_of(parent)
    until(lambda: events(parent, "worker.ready"))
    freeze(parent.process, loaded)  # what is claimed now is the child's
    status = client.kick_off()
    until(lambda: events(parent, "shard.completed"))

    parent.kill()

    until(lambda: has_ended(child))
    assert events(parent, "worker.stopped")
    loaded.start("worker")
    assert_exact(client, status, population[1])
    assert set(completed_shards(loaded).values()) == {1}


def test_a_hangup_of_every_process_of_a_service_ends_no_worker(loaded, population):
    """The server reads its renewed certificate then; a service manager signals all processes."""
    server, client = loaded.serve()
    until(lambda: events(server, "worker.ready"))
    child = worker_of(server)

    child.send_signal(signal.SIGHUP)

    assert_exact(client, client.kick_off(), population[1])
    assert not has_ended(child)
    assert server.stop() == 0
    assert not events(server, "worker.died")


def test_a_stopped_server_leaves_no_process_behind(loaded, population):
    server, client = loaded.serve()
    status = client.kick_off()
    child = worker_of(server)

    assert server.stop() == 0

    until(lambda: has_ended(child))
    assert not events(server, "worker.died")
    _, client = loaded.serve(**same_port(client))
    assert_exact(client, status, population[1])
    assert set(completed_shards(loaded).values()) == {1}


def test_a_worker_that_is_frozen_does_not_keep_a_server_from_stopping(loaded):
    server, _ = loaded.serve(HFS_WORKER_SHUTDOWN_TIMEOUT=str(scaled(3)))
    child = worker_of(server)
    until(lambda: events(server, "worker.ready"))
    freeze(child, loaded)

    assert server.stop() == 0

    until(lambda: has_ended(child))
    assert events(server, "worker.late")
