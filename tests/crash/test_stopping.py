"""A stop that takes no longer than it may, and that loses nothing."""

import signal
import sqlite3
import time
from contextlib import closing

import pytest

from tests.crash.exports import assert_exact, completed_shards
from tests.pace import scaled, wait_for_end
from tests.processes import export_until, holds_a_shard, same_port

pytestmark = pytest.mark.crash

TIMEOUT_SECONDS = 1
"""On an idle machine, for handing shards back."""
MARGIN_SECONDS = 1.5
"""On an idle machine, for noticing a signal and the end of a process."""

MOST_SECONDS = 200
"""Less than what is silent is silent for."""

SILENT = """
import asyncio
import os
import time
from contextlib import asynccontextmanager

from helios_core import memory
from helios_core.storage.hooks import Backend, hookimpl
from helios_core.storage.threads import in_thread
from msgspec.structs import replace


class SilentOutputStore(memory.MemoryOutputStore):
    async def put(self, key, chunks):
        print(f"process {os.getpid()} is silent", flush=True)
        await in_thread(time.sleep, 600)


@asynccontextmanager
async def silent(settings):
    yield SilentOutputStore()


@hookimpl
def helios_output_store():
    return replace(memory.helios_output_store(), implementation=SilentOutputStore, open=silent)
"""


@pytest.fixture
def silent_output(loaded):
    """A site whose output store takes every part and never says that it is stored."""
    folder = loaded.folder / "plugins"
    metadata = folder / "helios_silent-1.dist-info"
    metadata.mkdir(parents=True)
    (folder / "helios_silent.py").write_text(SILENT)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: helios-silent\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[helios]\nsilent = helios_silent\n")
    loaded.settings |= {
        "PYTHONPATH": str(folder),
        "HFS_BULK_EXPORT_OUTPUT_BACKEND": "silent",
        "HFS_WORKER_SHUTDOWN_TIMEOUT": str(min(scaled(TIMEOUT_SECONDS), MOST_SECONDS)),
    }
    return loaded


def is_silent(process):
    """The process itself, not only the one that it started for another worker."""
    return f"process {process.process.pid} is silent\n" in process.output()


def at_work(site, is_ready):
    """Start a server that works too and a worker, and export until both are ready."""
    server, client = site.serve(HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER="true")
    processes = [site.start(command) for command in ("serve", "worker")]
    export_until(client, processes, is_ready)
    return server, processes


def stop_in_time(processes, timeout):
    """Have processes stop; what is silent is silent for much longer."""
    began = time.monotonic()
    for process in processes:
        process.signal(signal.SIGTERM)
    for process in processes:
        wait_for_end(process.process)
    assert time.monotonic() - began < timeout + scaled(MARGIN_SECONDS)


def test_processes_whose_output_is_silent_hand_their_shards_back_and_end(silent_output):
    """The thread that writes can neither be ended nor waited for."""
    server, processes = at_work(silent_output, is_silent)

    stop_in_time(processes, float(silent_output.settings["HFS_WORKER_SHUTDOWN_TIMEOUT"]))

    for process in processes:
        events = [event["event"] for event in process.events()]
        assert "shard.released" in events
        assert "process.stop_overdue" in events
        assert process.process.returncode == 1
    assert server.stop() == 0


def test_processes_whose_job_store_is_silent_end(loaded):
    """Who keeps SQLite's write lock keeps every job store waiting."""
    timeout = min(scaled(TIMEOUT_SECONDS), MOST_SECONDS)
    loaded.settings |= {
        "HFS_WORKER_SHUTDOWN_TIMEOUT": str(timeout),
        "HFS_SQLITE_BUSY_TIMEOUT": "600",
    }
    _, processes = at_work(loaded, holds_a_shard)

    with closing(sqlite3.connect(loaded.folder / "data" / "helios.db", timeout=30)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        stop_in_time(processes, timeout)

    assert all(process.process.returncode in (0, 1) for process in processes)


def test_a_restart_of_every_process_loses_and_repeats_no_published_work(loaded, population):
    no_worker = {"HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER": "true"}
    server, client = loaded.serve(**no_worker)
    status = client.kick_off()
    workers = [loaded.start("worker") for _ in range(2)]
    while len(completed_shards(loaded)) < 3:
        time.sleep(0.01)

    assert server.stop() == 0
    _, client = loaded.serve(**no_worker, **same_port(client))
    for worker in workers:
        assert worker.stop() == 0
        loaded.start("worker")

    assert_exact(client, status, population[1])
    assert set(completed_shards(loaded).values()) == {1}
