"""Incremental exports over writers that never pause rebuild exactly the final state."""

import random
import threading

import httpx
import pytest

from tests.processes import Client

pytestmark = pytest.mark.crash

ROUNDS = 15
WRITERS = 3
IDS = 12


class Writer(threading.Thread):
    """Creates, updates and deletes patients through one server until told to stop."""

    def __init__(self, base_url: str, seed: int) -> None:
        super().__init__()
        self.base_url = base_url
        self.chance = random.Random(seed)
        self.stopped = threading.Event()
        self.writes = 0

    def run(self) -> None:
        with httpx.Client(base_url=self.base_url, timeout=30) as http:
            while not self.stopped.is_set():
                path = f"/Patient/p{self.chance.randrange(IDS)}"
                if self.chance.random() < 0.3:
                    assert http.delete(path).status_code in (204, 404)
                else:
                    body = {"resourceType": "Patient", "id": path.rpartition("/")[2]}
                    body["birthDate"] = f"19{self.chance.randrange(10, 99)}-01-01"
                    assert http.put(path, json=body).status_code in (200, 201)
                self.writes += 1


def replay(client: Client, manifest, state) -> None:
    for resource in client.resources(manifest):
        state[resource["id"]] = resource
    for bundle in client.resources(manifest, "deleted"):
        for entry in bundle["entry"]:
            assert entry["request"]["method"] == "DELETE"
            state.pop(entry["request"]["url"].removeprefix("Patient/"), None)


def final_state(client: Client):
    responses = (client.http.get(f"/Patient/p{number}") for number in range(IDS))
    return {r.json()["id"]: r.json() for r in responses if r.status_code == 200}


def test_chained_exports_over_writers_in_two_processes_rebuild_the_final_state(site):
    """B2-MF-02, TR-43"""
    clients = [site.serve()[1] for _ in range(2)]
    writers = [Writer(clients[n % 2].base_url, seed=n) for n in range(WRITERS)]
    for writer in writers:
        writer.start()
    state, since, times = {}, {}, []

    for number in range(ROUNDS):
        client = clients[number % 2]
        manifest = client.manifest(client.kick_off(_type="Patient", **since))
        replay(client, manifest, state)
        since = {"_since": manifest["transactionTime"]}
        times.append(manifest["transactionTime"])
    for writer in writers:
        writer.stopped.set()
        writer.join()
    manifest = clients[0].manifest(clients[0].kick_off(_type="Patient", **since))
    replay(clients[0], manifest, state)

    assert state == final_state(clients[0])
    assert times == sorted(set(times))
    assert min(writer.writes for writer in writers) > ROUNDS
