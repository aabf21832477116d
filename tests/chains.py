"""Chains of incremental exports, and those who write meanwhile."""

import itertools
import random
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import httpx

from tests.pace import scaled
from tests.processes import Client

IDS = 12
"""So few that every one is created, changed and deleted again and again."""

State = dict[str, dict[str, Any]]


class Anybody(Protocol):
    """Whoever writes until told to stop."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Writer(threading.Thread):
    """Creates, updates and deletes patients through one server until told to stop."""

    def __init__(self, base_url: str, seed: int) -> None:
        super().__init__()
        self.base_url = base_url
        self.chance = random.Random(seed)
        self.stopped = threading.Event()
        self.writes = 0

    def run(self) -> None:
        with httpx.Client(base_url=self.base_url, timeout=scaled(30)) as http:
            while not self.stopped.is_set():
                path = f"/Patient/p{self.chance.randrange(IDS)}"
                if self.chance.random() < 0.3:
                    assert http.delete(path).status_code in (204, 404)
                else:
                    body = {"resourceType": "Patient", "id": path.rpartition("/")[2]}
                    body["birthDate"] = f"19{self.chance.randrange(10, 99)}-01-01"
                    assert http.put(path, json=body).status_code in (200, 201)
                self.writes += 1

    def stop(self) -> None:
        self.stopped.set()
        self.join()


class Chain:
    """What a client knows who exports everything once and then only what changed."""

    def __init__(self) -> None:
        self.state: State = {}
        self.instants: list[str] = []

    def extend(self, client: Client) -> None:
        """Export what changed since the last time, and replay it."""
        since = {"_since": self.instants[-1]} if self.instants else {}
        manifest = client.manifest(client.kick_off(_type="Patient", **since))
        self.instants.append(manifest["transactionTime"])
        for resource in client.resources(manifest):
            self.state[resource["id"]] = resource
        for bundle in client.resources(manifest, "deleted"):
            for entry in bundle["entry"]:
                assert entry["request"]["method"] == "DELETE"
                self.state.pop(entry["request"]["url"].removeprefix("Patient/"), None)

    def follow(
        self,
        clients: Sequence[Client],
        writers: Collection[Anybody],
        rounds: int,
        written_enough: Callable[[], bool],
    ) -> None:
        """Export again and again while others write, and once more when they have stopped."""
        for writer in writers:
            writer.start()
        for number in itertools.count():
            self.extend(clients[number % len(clients)])
            if number + 1 >= rounds and written_enough():
                break
            assert number < 10 * rounds, "the writers hardly get their turn"
        for writer in writers:
            writer.stop()
        self.extend(clients[0])

        assert self.state == current(clients[0])
        assert self.instants == sorted(set(self.instants))


def current(client: Client) -> State:
    """Read every patient there is, one by one."""
    responses = (client.http.get(f"/Patient/p{number}") for number in range(IDS))
    return {r.json()["id"]: r.json() for r in responses if r.status_code == 200}
