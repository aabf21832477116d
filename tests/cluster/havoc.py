"""What may happen to the processes of a cluster within half a minute."""

import random
import signal
import time
from typing import Any

from tests.cluster.sites import Cluster, Member
from tests.pace import Deadline
from tests.processes import Process

Held = frozenset[tuple[str, int, int]]
"""Job, shard and token of what a worker holds."""


def named(event: dict[str, Any]) -> tuple[str, int, int]:
    return event["job_id"], event["shard"], event["token"]


def held_by(process: Process) -> Held:
    """What a process has claimed and not finished."""
    events = [event for event in process.events() if "token" in event]
    claimed = {named(event) for event in events if event["event"] == "shard.claimed"}
    return frozenset(claimed - {named(e) for e in events if e["event"] != "shard.claimed"})


def published_by(process: Process) -> Held:
    return frozenset(named(e) for e in process.events() if e["event"] == "shard.completed")


class Sleeper:
    """A worker that is frozen with shards in its hands, until others have taken them over."""

    def __init__(self, cluster: Cluster, member: Member) -> None:
        self._cluster = cluster
        self.member = member
        self.process = member.process
        self.lost: Held = frozenset()
        self.held: Held = frozenset()
        self.awake = True

    def fall_asleep(self) -> bool:
        """Freeze; False when it held nothing at that moment."""
        self.process.signal(signal.SIGSTOP)
        self.held = held_by(self.process)
        self.awake = not self.held
        if self.awake:
            self.process.signal(signal.SIGCONT)
        return not self.awake

    def wake_when_replaced(self) -> None:
        """Go on once another worker has claimed something of what this one holds."""
        claimed = {named(e) for e in self._cluster.events() if e["event"] == "shard.claimed"}
        self.lost = frozenset(
            (job, shard, token)
            for job, shard, token in self.held
            if any((job, shard) == (j, s) and token < t for j, s, t in claimed)
        )
        if self.lost:
            self.awake = True
            self.process.signal(signal.SIGCONT)


class Havoc:
    """Kills one process after the other; only the sleeper is spared."""

    def __init__(self, cluster: Cluster, *, seed: int) -> None:
        self._cluster = cluster
        self._chance = random.Random(seed)
        self.kills = 0
        self.sleeper: Sleeper | None = None

    def strike(self) -> None:
        """Kill one process and replace it, and see after the sleeper."""
        if self.sleeper is None:
            self._send_to_sleep()
        elif not self.sleeper.awake:
            self.sleeper.wake_when_replaced()
        self._cluster.tend()
        spared = self.sleeper.member if self.sleeper else None
        victims = [m for m in self._cluster.members if m is not spared and m.ready]
        # On a slow machine the last victims may not have come up yet.
        if len(victims) > 2:
            self._chance.choice(victims).kill()
            self.kills += 1

    def calm_down(self) -> None:
        """Wait until the sleeper is awake."""
        deadline = Deadline(60)
        while self.sleeper and not self.sleeper.awake and not deadline.has_passed():
            self._cluster.tend()
            self.sleeper.wake_when_replaced()
            time.sleep(0.1)

    def _send_to_sleep(self) -> None:
        for member in self._cluster.workers:
            sleeper = Sleeper(self._cluster, member)
            if sleeper.fall_asleep():
                self.sleeper = sleeper
                return
