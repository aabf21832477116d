"""A plugin built as a wheel outside of the repository de-identifies what a server exports."""

import json
import re
from pathlib import Path

import pytest

from tests.docs.elsewhere import PUBLIC, Elsewhere, imported_from_helios
from tests.pace import wait_for_end
from tests.processes import Site

EXAMPLE = Path(__file__).parents[2] / "docs/examples/deidentify"
SECRET = "a secret of more than thirty-two characters"
IDENTIFYING = ("Jane", "Doe", "1970-05-17", "mrn-4711", "patient-jane", "Main Street", "dr-smith")
RESOURCES = [
    {
        "resourceType": "Patient",
        "id": "patient-jane",
        "identifier": [{"system": "urn:mrn", "value": "mrn-4711"}],
        "text": {"status": "generated", "div": "<div>Jane Doe</div>"},
        "name": [{"family": "Doe", "given": ["Jane"]}],
        "gender": "female",
        "birthDate": "1970-05-17",
        "address": [{"line": ["Main Street 1"]}],
    },
    {"resourceType": "Practitioner", "id": "dr-smith", "name": [{"family": "Smith"}]},
    {
        "resourceType": "Observation",
        "id": "observation-of-patient-jane",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}], "text": "Jane"},
        "subject": {"reference": "Patient/patient-jane", "display": "Jane Doe"},
        "performer": [{"reference": "Practitioner/dr-smith"}],
        "effectiveDateTime": "2026-01-02T03:04:05Z",
        "valueQuantity": {"value": 120.50, "unit": "mm[Hg]"},
    },
    {
        "resourceType": "Group",
        "id": "g1",
        "type": "person",
        "actual": True,
        "member": [{"entity": {"reference": "Patient/patient-jane"}}],
    },
]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    return Elsewhere(tmp_path_factory.mktemp("third-party"), EXAMPLE)


@pytest.fixture
def site(elsewhere, tmp_path):
    site = Site(
        tmp_path,
        HFS_PLUGINS="deidentify",
        HFS_DEIDENTIFY_SECRET=SECRET,
        HFS_BULK_EXPORT_COMPRESSION="none",
        HFS_BULK_EXPORT_WORKER_CONCURRENCY="2",
    )
    site.helios = elsewhere.helios
    file = tmp_path / "resources.ndjson"
    file.write_text("".join(json.dumps(each) + "\n" for each in RESOURCES))
    site.run("load", str(file))
    yield site
    site.end()


def test_the_suite_proves_the_example_from_its_own_folder(elsewhere):
    output = elsewhere.run_tests()

    assert re.search(r"^\d{2,} passed", output, re.MULTILINE), output


@pytest.mark.parametrize("options", [(), ("--level", "patient"), ("--group", "g1")])
def test_an_export_has_no_trace_of_who_it_is_about(site, options):
    _, client = site.serve()

    output = site.run("export", client.base_url, "--to", str(site.folder / "files"), *options)

    files = [path for path in (site.folder / "files").iterdir() if path.suffix == ".ndjson"]
    content = "".join(path.read_text() for path in files)
    assert "complete" in output
    assert len(files) >= 2
    assert not [text for text in IDENTIFYING if text in content]
    lines = [json.loads(line) for line in content.splitlines()]
    by_type = {line["resourceType"]: line for line in lines}
    assert set(by_type) == {"Patient", "Observation"}
    observation, patient = by_type["Observation"], by_type["Patient"]
    assert observation["subject"] == {"reference": f"Patient/{patient['id']}"}
    assert '"value":120.5' in content
    assert (patient["gender"], patient["birthDate"]) == ("female", "1970")
    assert {line["meta"]["security"][0]["code"] for line in lines} == {"PSEUDED"}


def test_what_stays_on_the_disk_of_the_server_is_de_identified_too(site):
    _, client = site.serve()

    client.manifest(client.kick_off(organizeOutputBy="Patient"))

    output = b"".join(
        path.read_bytes() for path in (site.folder / "data/exports").rglob("*.ndjson")
    )
    assert output
    assert not [text for text in IDENTIFYING if text.encode() in output]


def test_there_is_no_other_way_to_the_resources(site):
    process, client = site.serve()

    paths = [
        *("/Patient/patient-jane", "/Patient/patient-jane/_history", "/Patient?name=Jane"),
        *("/Practitioner/dr-smith", "/Group/g1"),
    ]
    found = {client.http.get(path).status_code for path in paths}
    filtered = client.http.get(
        "/$export?_typeFilter=Patient%3Fname%3DJane", headers={"Prefer": "respond-async"}
    )

    assert found <= {404, 405}
    assert filtered.status_code == 400
    assert not [text for text in IDENTIFYING if text in process.output()]
    assert SECRET not in process.output()


def test_a_worker_that_was_forgotten_exports_nothing(site):
    _, client = site.serve(HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER="true")
    status = client.kick_off()
    worker = site.start("worker", HFS_PLUGINS="", HFS_BULK_EXPORT_MAX_ATTEMPTS="1")
    worker.wait_for(re.compile('("event": "job.ended")'))

    response = client.http.get(status)

    assert response.status_code == 500
    assert "accepted with the transforms deidentify" in response.text
    files = (site.folder / "data/exports").rglob("*.ndjson*")
    assert not [path for path in files if b"Jane" in path.read_bytes()]


def test_a_short_secret_stops_the_start(elsewhere, tmp_path):
    site = Site(tmp_path, HFS_PLUGINS="deidentify", HFS_DEIDENTIFY_SECRET="short")
    site.helios = elsewhere.helios
    process = site.start("serve")

    assert wait_for_end(process.process) == 2
    assert "HFS_DEIDENTIFY_SECRET is shorter than 32 characters" in process.output()


def test_the_example_imports_public_names_only():
    assert imported_from_helios(EXAMPLE) <= PUBLIC


def test_the_example_is_not_installed_here():
    with pytest.raises(ModuleNotFoundError):
        __import__("helios_deidentify")
