"""What the tests of killed and restarted processes ask of an export."""

import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

import psutil

from tests.pace import Deadline
from tests.processes import Client, Site, names

PATIENCE_SECONDS = 20

Found = TypeVar("Found")


def until(found: Callable[[], Found]) -> Found:
    """Wait for what a function finds, and give it."""
    deadline = Deadline(PATIENCE_SECONDS)
    while not (result := found()):
        assert not deadline.has_passed(), "it never came"
        time.sleep(0.01)
    return result


def completed_shards(site: Site) -> Counter[tuple[str, int]]:
    """How often each shard of each job was completed, by every log of the site."""
    events = [event for process in site.processes for event in process.events()]
    completed = (e for e in events if e["event"] == "shard.completed")
    return Counter((event["job_id"], event["shard"]) for event in completed)


def freeze(process: "subprocess.Popen[bytes] | psutil.Process", site: Site) -> None:
    """Stop a process at a moment when it does not hold SQLite's write lock, which stops all."""
    database = site.folder / "data" / "helios.db"
    while True:
        process.send_signal(signal.SIGSTOP)
        with closing(sqlite3.connect(database, timeout=0.2, isolation_level=None)) as probe:
            try:
                probe.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                process.send_signal(signal.SIGCONT)
                time.sleep(0.01)
            else:
                probe.execute("ROLLBACK")
                return


def assert_exact(client: Client, status: str, expected: list[str]) -> None:
    """Wait for an export, and compare it."""
    assert names(client.resources(client.manifest(status))) == expected
