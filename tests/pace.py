"""
How fast this machine is now, so that no test depends on it.

A test waits for events. What it must not wait for without end, it waits for as long as a
`Deadline` allows, and what may not take long is compared with `scaled` seconds: both grow with
what a probe takes at that moment, on a machine that is slow or busy with other things, and with
the number of processes that wait for a core.
"""

import os
import subprocess
import sys
import time

PROBE = [sys.executable, "-c", "import asyncio, decimal, json, sqlite3"]
PROBE_SECONDS = 0.15
"""What the probe takes on an idle machine."""
MARGIN = 3
"""Load changes between the probe and what it is compared with."""


KEPT_SECONDS = 10
"""How long the result of a probe is used, so that probing costs nothing."""

_last = [float("-inf"), 1.0]


def slowness() -> float:
    """Return how many times slower than an idle machine this one is now, at least 1."""
    began = time.monotonic()
    if began - _last[0] > KEPT_SECONDS:
        subprocess.run(PROBE, check=True)
        now = time.monotonic()
        _last[:] = now, max(1.0, (now - began) / PROBE_SECONDS, crowd())
    return _last[1]


def crowd() -> float:
    """
    Return how many processes share a core of this machine, over the last minute.

    A short probe may be lucky: who has slept so far is let in first.
    """
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def scaled(seconds: float) -> float:
    """Return what takes so long on an idle machine, in seconds of this one."""
    return seconds * MARGIN * slowness()


class Deadline:
    """A limit for waiting, in seconds of an idle machine; the probe runs only beyond them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = time.monotonic()
        self._slowness = 1.0

    def has_passed(self) -> bool:
        elapsed = time.monotonic() - self._began
        if elapsed < self._seconds * self._slowness:
            return False
        self._slowness = max(self._slowness, MARGIN * slowness())
        return elapsed > self._seconds * self._slowness


def wait_for_end(process: "subprocess.Popen[bytes]", seconds: float = 60) -> int:
    """Wait until a process has ended, and return its exit code."""
    deadline = Deadline(seconds)
    while (code := process.poll()) is None:
        assert not deadline.has_passed(), f"{process.args} does not end"
        time.sleep(0.01)
    return code
