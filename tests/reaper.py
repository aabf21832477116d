"""
A process that ends what a run of the tests has started, once the run is over.

Every process that is started inside of a run inherits a variable of its environment, however it
is started and whoever starts it: servers, workers, MinIO, moto, the postmaster of PostgreSQL.
When the run has ended, by itself or by any signal, `kill -9` included, the reaper ends all that
still have it, and removes the folders that are named after it.
"""

import os
import select
import shutil
import signal
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

VARIABLE = "HELIOS_TEST_RUN"
POLL_SECONDS = 0.1
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - folders in it have unique names
"""The file system in memory that servers keep their data in, where it has the room."""
SECONDS_TO_STOP = 5
"""After SIGTERM; what is left then is killed."""


def start_reaper() -> None:
    """Start the reaper of this run, unless this process is part of one or has no /proc."""
    if VARIABLE in os.environ or not Path("/proc/self/environ").exists():
        return
    run = uuid.uuid4().hex
    # Not in the environment of the reaper itself, which must not end itself.
    command = [sys.executable, __file__, str(os.getpid()), run]
    # Nobody waits for it, so it is no Popen, which would complain; nor does a pipe wait for it.
    silent = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    os.posix_spawn(sys.executable, command, os.environ, file_actions=silent, setsid=True)
    os.environ[VARIABLE] = run


def own_prefix(service: str) -> str:
    """Return how the names of a service's folders begin, by which the reaper finds them."""
    return f"helios-{service}-{os.environ.get(VARIABLE, '')}-"


def started_in(run: str) -> list[int]:
    """Return the ids of all processes that a run has started, directly or not."""
    mark = f"{VARIABLE}={run}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def folders_of(run: str) -> list[Path]:
    """Return the folders that are named after a run."""
    places = (Path(tempfile.gettempdir()), SHARED_MEMORY)
    return [folder for place in places for folder in place.glob(f"helios-*-{run}-*")]


def reap(parent: int, run: str) -> None:
    """Wait for the end of a process, then end what it has left behind."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(parent)
        select.select([descriptor], [], [])
    deadline = time.monotonic() + SECONDS_TO_STOP
    asked = set[int]()
    while processes := started_in(run):
        late = time.monotonic() > deadline
        for process in processes if late else set(processes) - asked:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
                os.kill(process, signal.SIGKILL if late else signal.SIGTERM)
        asked.update(processes)
        time.sleep(POLL_SECONDS)
    for folder in folders_of(run):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    reap(int(sys.argv[1]), sys.argv[2])
