"""Every row of the capability matrix does all that exports are for, with real processes."""

from collections import Counter
from datetime import datetime

import httpx
import pytest

from tests.matrix import corpora
from tests.matrix.corpora import MEMBERS, by_name
from tests.matrix.stands import names
from tests.pace import Deadline

THE_THREE = "abc"


def put_the_three(client):
    """Store three patients, an Observation of each, and a Group of the first two."""
    for name in THE_THREE:
        client.put({"resourceType": "Patient", "id": f"p{name}"})
        client.put(
            {
                "resourceType": "Observation",
                "id": f"o{name}",
                "status": "final",
                "code": {"text": "smoke"},
                "subject": {"reference": f"Patient/p{name}"},
            }
        )
    client.put(corpora.group(["pa", "pb"]))


def exported(client, path="/$export", **parameters):
    """Export, and return what came by its names."""
    return by_name(client.export(path, **parameters))


def kick_off_by_post(client, path, *parameters):
    body = {"resourceType": "Parameters", "parameter": list(parameters)}
    response = client.http.post(path, json=body, headers={"Prefer": "respond-async"})
    assert response.status_code == 202, response.text
    return httpx.URL(response.headers["Content-Location"]).path


def found_by(client, url):
    """Yield what a search finds, page by page."""
    while url:
        bundle = client.http.get(url).json()
        yield from (entry["resource"] for entry in bundle.get("entry", ()))
        url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), None)


def refused(response, status):
    assert response.status_code == status, response.text
    assert response.json()["resourceType"] == "OperationOutcome"


def test_a_row_passes_the_smoke_script(stand):
    client = stand.client()
    statement = client.http.get("/metadata").json()
    [rest] = statement["rest"]
    assert [operation["name"] for operation in rest["operation"]] == ["export"]
    operations = {
        resource["type"]: [operation["name"] for operation in resource.get("operation", ())]
        for resource in rest["resource"]
    }
    assert "export" in operations["Patient"]
    assert "export" in operations["Group"]
    assert statement["fhirVersion"].startswith(
        {"R4": "4.0", "R4B": "4.3"}.get(stand.cell.version, stand.cell.version[1])
    )
    refused(client.http.get("/$export?_type=Patient"), 400)
    put_the_three(client)

    status = client.kick_off(_type="Patient,Observation")
    manifest = client.manifest(status)
    everything = by_name(client.resources(manifest))
    assert sorted(everything) == sorted(
        f"{kind}/{short}{name}"
        for kind, short in (("Patient", "p"), ("Observation", "o"))
        for name in THE_THREE
    )
    signed = any(
        capability.name == "signed URLs" and capability.works
        for capability in stand.row.capabilities
    )
    assert manifest["requiresAccessToken"] is False
    assert all(("X-Amz-Signature" in entry["url"]) == signed for entry in manifest["output"])

    kinds = {"name": "_type", "valueString": "Patient,Observation"}
    who = {"name": "patient", "valueReference": {"reference": "Patient/pa"}}
    of_one = client.manifest(kick_off_by_post(client, "/Patient/$export", kinds, who))
    assert sorted(by_name(client.resources(of_one))) == ["Observation/oa", "Patient/pa"]

    of_two = client.manifest(client.kick_off("/Group/g1/$export", _type="Patient,Observation"))
    assert sorted(by_name(client.resources(of_two))) == [
        *("Observation/oa", "Observation/ob", "Patient/pa", "Patient/pb")
    ]

    assert client.http.delete(status).status_code == 202
    refused(client.http.get(status), 404)


def test_what_is_wrong_is_refused(stand):
    client = stand.client()
    put_the_three(client)
    asking = {"Prefer": "respond-async"}

    for path, status in {
        "/$export?_type=Nothing": 400,
        "/$export?_since=yesterday": 400,
        "/$export?_typeFilter=Patient%3Fshoe-size%3D43": 400,
        "/$export?_outputFormat=text/csv": 400,
        "/$export?colour=blue": 400,
        "/Group/nobody/$export": 404,
        "/Observation/$export": 404,
    }.items():
        refused(client.http.get(path, headers=asking), status)
    refused(client.http.get(f"{client.kick_off()}0"), 404)


def test_exports_of_every_level_have_exactly_what_was_loaded(stand):
    loaded = stand.made
    client = stand.client(loaded.tenant)
    of_patients = names(
        loaded.resources, "Patient", "Observation", "Condition", "Group", "Practitioner"
    )
    of_members = {
        *("Group/g1", "Practitioner/dr"),
        *(f"Patient/{member}" for member in MEMBERS),
        *(f"Observation/o{member[1:]}-{k}" for member in MEMBERS for k in range(6)),
        *(f"Condition/c{member[1:]}" for member in MEMBERS),
    }

    assert exported(client) == loaded.resources
    for path, expected in {
        "/Patient/$export": of_patients,
        "/Group/g1/$export": of_members,
    }.items():
        found = exported(client, path)
        assert found == {name: loaded.resources[name] for name in expected}


def test_an_export_of_real_data_has_exactly_what_was_loaded(stand):
    loaded = stand.real
    client = stand.client(loaded.tenant)

    manifest = client.manifest(client.kick_off())

    assert by_name(client.resources(manifest), client.base_url) == loaded.resources
    assert manifest["error"] == manifest["deleted"] == []


def test_filters_and_elements_leave_exactly_what_they_say(stand):
    loaded = stand.made
    client = stand.client(loaded.tenant)
    amended = {
        name for name, resource in loaded.resources.items() if resource.get("status") == "amended"
    }

    by_token = exported(client, _type="Observation", _typeFilter="Observation?status=amended")
    by_reference = exported(
        client, _type="Observation", _typeFilter="Observation?subject=Patient/p3&status=final"
    )
    by_date = exported(
        client, _type="Condition", _typeFilter="Condition?recorded-date=lt2020-01-04"
    )
    of_members = exported(
        client,
        "/Group/g1/$export",
        _type="Patient,Observation",
        _typeFilter="Observation?status=amended",
    )
    genders = client.export(_type="Patient", _elements="gender")

    assert by_token.keys() == amended
    assert by_reference.keys() == {"Observation/o3-0", "Observation/o3-2", "Observation/o3-4"}
    assert by_date.keys() == {"Condition/c0", "Condition/c1", "Condition/c2"}
    assert of_members.keys() == {
        *(f"Patient/{member}" for member in MEMBERS),
        *(f"Observation/o{member[1:]}-{k}" for member in MEMBERS for k in (1, 3, 5)),
    }
    assert len(genders) == corpora.PATIENTS
    assert {frozenset(found) - {"meta"} for found in genders} == {
        frozenset({"resourceType", "id", "gender"})
    }
    assert all(
        any(tag["code"] == "SUBSETTED" for tag in found["meta"]["tag"]) for found in genders
    )


def test_searches_find_exactly_what_was_loaded(stand):
    loaded = stand.made
    client = stand.client(loaded.tenant)
    stand.wait_for_the_index(len(loaded.resources))

    amended = list(found_by(client, "/Observation?status=amended&_count=10"))
    of_one = list(found_by(client, "/Condition?subject=Patient/p3&recorded-date=2020-01-04"))
    none = client.http.get("/Observation?status=cancelled&_total=accurate").json()

    assert by_name(amended) == {
        name: each for name, each in loaded.resources.items() if each.get("status") == "amended"
    }
    assert by_name(of_one) == {"Condition/c3": loaded.resources["Condition/c3"]}
    assert none["total"] == 0


def test_an_export_since_another_has_what_changed_and_what_was_deleted(stand):
    client = stand.client()
    put_the_three(client)
    before = client.manifest(client.kick_off())["transactionTime"]
    changed = {"resourceType": "Patient", "id": "pa", "active": True}
    client.put(changed)
    client.put({"resourceType": "Patient", "id": "pd"})
    assert client.http.delete("/Observation/ob").status_code in (200, 204)

    manifest = client.manifest(client.kick_off(_since=before))
    between = client.manifest(client.kick_off(_until=before))

    assert by_name(client.resources(manifest)) == {
        "Patient/pa": changed,
        "Patient/pd": {"resourceType": "Patient", "id": "pd"},
    }
    entries = [
        entry for bundle in client.resources(manifest, "deleted") for entry in bundle["entry"]
    ]
    assert [entry["request"] for entry in entries] == [
        {"method": "DELETE", "url": "Observation/ob"}
    ]
    assert datetime.fromisoformat(manifest["transactionTime"]) > datetime.fromisoformat(before)
    assert by_name(client.resources(between)).keys() == {
        *("Group/g1", "Patient/pb", "Patient/pc", "Observation/oa", "Observation/oc")
    }


@pytest.mark.one_version
def test_a_server_without_exports_answers_501_and_offers_none(stand):
    """As the row `none` of the original's matrix."""
    server, client = stand.serve(HFS_BULK_EXPORT_ENABLED="false")
    client.http.headers["X-Tenant-ID"] = stand.made.tenant

    for path in ("/$export", "/Patient/$export", "/Group/g1/$export"):
        refused(client.http.get(path, headers={"Prefer": "respond-async"}), 501)
    assert "export" not in client.http.get("/metadata").text
    assert client.http.get("/Patient/p0").status_code == 200
    assert server.stop() == 0


@pytest.mark.one_version
def test_a_cancelled_export_is_gone_and_so_are_its_files(stand):
    client = stand.client(stand.made.tenant)
    status = client.kick_off()
    stand.wait_for_a_shard(status)

    assert client.http.delete(status).status_code == 202

    refused(client.http.get(status), 404)
    deadline = Deadline(60)
    while stand.files_of(status):
        assert not deadline.has_passed()


@pytest.mark.one_version
def test_a_server_and_a_worker_killed_in_mid_export_lose_and_repeat_nothing(stand):
    loaded = stand.made
    client = stand.client(loaded.tenant)
    status = client.kick_off()
    stand.wait_for_a_shard(status)

    stand.worker.kill()
    stand.server.kill()
    stand.restart()

    manifest = client.manifest(status)
    assert by_name(client.resources(manifest), client.base_url) == loaded.resources
    job = status.rpartition("/")[2]
    completed = Counter(
        event["shard"]
        for process in stand.processes
        for event in process.events()
        if event["event"] == "shard.completed" and event["job_id"] == job
    )
    assert max(completed.values()) == 1
