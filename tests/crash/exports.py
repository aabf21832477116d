"""What the tests of killed and restarted processes ask of an export."""

import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

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


def completed_shards(site: Site) -> Counter[int]:
    """How often each shard was completed, by every log of the site."""
    events = [event for process in site.processes for event in process.events()]
    return Counter(e["shard"] for e in events if e["event"] == "shard.completed")


def assert_exact(client: Client, status: str, expected: list[str]) -> None:
    """Wait for an export, and compare it."""
    assert names(client.resources(client.manifest(status))) == expected
