"""No resource, patient id, search value or token is ever logged."""

import pytest

from tests.pace import wait_for_end
from tests.processes import Site

CANARY = "canary-8d1f"


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path, HFS_LOG_LEVEL="debug")
    yield site
    site.end()


def test_at_debug_level_nothing_of_the_data_is_logged(site, tmp_path):
    file = tmp_path / "in.ndjson"
    file.write_text(
        f'{{"resourceType":"Patient","id":"{CANARY}-0","name":[{{"text":"{CANARY}"}}]}}\n'
        f'{{"resourceType":"Patient","id":"{CANARY}-1","name":[{{"text":"{CANARY}"}}\n'
    )
    load = site.start("load", str(file))
    assert wait_for_end(load.process) == 1
    server, client = site.serve()
    patient = {"resourceType": "Patient", "id": f"{CANARY}-2", "name": [{"text": CANARY}]}
    client.put(patient)
    client.put(patient | {"active": True})
    client.http.headers["Authorization"] = f"Bearer {CANARY}"
    client.http.get(f"/Patient?_id={CANARY}-2")
    client.http.get(f"/Patient?name={CANARY}")
    client.http.get(f"/Patient/{CANARY}-none")
    client.http.put(f"/Patient/{CANARY}-3", content=b'{"resourceType":"Patient","id":"%s' % b"x")
    client.http.put("/Patient/x", json=patient)
    client.http.delete(f"/Patient/{CANARY}-2")
    body = {
        "resourceType": "Parameters",
        "parameter": [{"name": "patient", "valueReference": {"reference": f"Patient/{CANARY}-9"}}],
    }
    prefer = {"Prefer": "respond-async"}
    assert client.http.post("/Patient/$export", json=body, headers=prefer).status_code == 400
    assert len(client.export()) == 1
    server.stop()

    for process in site.processes:
        assert process.output()
        assert CANARY not in process.output()


def test_an_export_can_be_followed_by_its_events(site):
    server, client = site.serve()
    client.put({"resourceType": "Patient", "id": "p1"})
    client.export()
    server.stop()

    happened = [event["event"] for event in server.events()]
    steps = ["job.accepted", "shard.claimed", "shard.completed", "job.ended"]
    assert [event for event in happened if event in steps] == steps
