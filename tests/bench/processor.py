"""Processor time of processes that are not ours, to tell what a wait was for."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil


@dataclass
class Used:
    """Processor seconds between two moments."""

    seconds: float = 0.0


@contextmanager
def using(*pids: int) -> Iterator[Used]:
    """Measure what some processes use, with all that they start, for as long as it lasts."""
    used = Used()
    before = _seconds(pids)
    yield used
    used.seconds = _seconds(pids) - before


def _seconds(pids: tuple[int, ...]) -> float:
    return sum(_of(psutil.Process(pid)) for pid in pids)


def _of(process: psutil.Process) -> float:
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in process.children():
        with suppress(psutil.NoSuchProcess):  # then it is in the figures of its parent
            times = child.cpu_times()
            total += times.user + times.system
    return float(total)
