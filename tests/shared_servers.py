"""
A server that takes long to start, one for all the processes of a test run.

The first process that names its folder starts it; it stops when the last one has left, or has
ended in whatever way.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.pace import Deadline
from tests.reaper import VARIABLE
from tests.services import data_folder, free_port

START_SECONDS = 600
"""Keycloak needs 30 s on a machine that does nothing else."""

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "helios"
"""Where servers are installed."""

Command = Callable[[int, int], Sequence[str]]
"""What starts a server that listens on the first port for HTTP, and on the second otherwise."""


@contextmanager
def shared_server(
    folder: Path, command: Command, *, ready: str, environ: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Yield the URL of a server, which has started once the path `ready` answers with 200."""
    with (folder / "users").open("w") as users:
        # Every user shares this lock, and a keeper stops the server when it has it for itself.
        fcntl.flock(users, fcntl.LOCK_SH)
        yield _started(folder, command, ready, environ or {})


def _started(folder: Path, command: Command, ready: str, environ: Mapping[str, str]) -> str:
    address = folder / "url"
    with (folder / "starting").open("w") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        if not address.exists():
            (folder / "ended").unlink(missing_ok=True)
            port, other = free_port(), free_port()
            url = f"http://127.0.0.1:{port}"
            _start_keeper(folder, command(port, other), environ)
            wait_for(url + ready, folder / "log", (folder / "ended").exists)
            address.write_text(url)
        return address.read_text()


def _start_keeper(folder: Path, command: Sequence[str], environ: Mapping[str, str]) -> None:
    """Start what outlives this process where others still use the server."""
    keeper = [sys.executable, "-m", "tests.shared_servers", str(folder), *command]
    # Other runs may use it when this one has ended; the keeper knows when nobody does.
    own = {name: value for name, value in os.environ.items() if name != VARIABLE}
    with (folder / "keeper.log").open("wb") as log:
        subprocess.run(
            ["sh", "-c", '"$@" &', "sh", *keeper],
            check=True,
            cwd=ROOT,
            env=own | environ,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def wait_for(url: str, log: Path, has_ended: Callable[[], bool]) -> None:
    """
    Wait until a server answers with 200.

    Raises:
        AssertionError: It has ended, or does not answer; the message shows its log.
    """
    deadline = Deadline(START_SECONDS)
    while not deadline.has_passed() and not has_ended():
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=START_SECONDS).status_code == httpx.codes.OK:
                return
        time.sleep(0.2)
    raise AssertionError(f"{url} does not answer:\n{log.read_text()}")


def _keep(folder: Path, command: Sequence[str]) -> None:
    """Run a server until nobody uses it, in a folder that is gone afterwards."""
    with (
        (folder / "log").open("wb") as log,
        (folder / "users").open("r") as users,
        data_folder("shared") as data,
    ):
        server = subprocess.Popen(
            command, cwd=data, stdout=log, stderr=log, start_new_session=True
        )
        while server.poll() is None:
            with suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.5)
        # The folder may be gone with the run that it is of.
        with suppress(FileNotFoundError):
            (folder / "ended").touch()
            (folder / "url").unlink(missing_ok=True)
        # The server may be a child of a script.
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), sys.argv[2:])
