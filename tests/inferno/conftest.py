"""Three servers that the kit's tests are run against, all over TLS."""

import json
from contextlib import ExitStack
from functools import cache

import pytest

from tests.inferno.kit import Kit, Target
from tests.secured import behind_tls, by_keycloak, embedded
from tests.services import a_bucket

SERVERS = ["embedded", "protected", "keycloak"]
"""
The embedded issuer with SQLite and local files; the same with PostgreSQL, keys that the client
publishes, and files that need a token because it is set so; Keycloak with PostgreSQL and files in
a bucket, by signed links.
"""
GROUP = "1a"
PATIENTS = ("p1", "p2", "p3")


def resources():
    """Return a small clinic: three patients, what was seen of them, and a group of two."""
    text = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>'}
    yield {"resourceType": "Organization", "id": "o1", "name": "Clinic"}
    for number, patient in enumerate(PATIENTS):
        subject = {"reference": f"Patient/{patient}"}
        yield {
            "resourceType": "Patient",
            "id": patient,
            "text": text,
            "name": [{"family": "Doe", "given": [patient]}],
            "gender": "unknown",
            "birthDate": f"19{60 + number}-01-31",
            "managingOrganization": {"reference": "Organization/o1"},
        }
        yield {
            "resourceType": "Observation",
            "id": f"obs-{patient}",
            "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
            "subject": subject,
            "effectiveDateTime": "2026-01-02T03:04:05Z",
            "valueQuantity": {"value": 61.50, "unit": "/min"},
        }
        yield {
            "resourceType": "Condition",
            "id": f"con-{patient}",
            "code": {"text": "Asthma"},
            "subject": subject,
        }
    members = [{"entity": {"reference": f"Patient/{patient}"}} for patient in PATIENTS[:2]]
    yield {
        "resourceType": "Group",
        "id": GROUP,
        "type": "person",
        "actual": True,
        "member": members,
    }


@pytest.fixture(scope="session", params=SERVERS)
def kit(request, tmp_path_factory, certificates):
    folder = tmp_path_factory.mktemp(request.param)
    source = folder / "clinic.ndjson"
    source.write_text("".join(f"{json.dumps(resource)}\n" for resource in resources()))
    with ExitStack() as stack:
        if request.param == "embedded":
            opened = embedded(folder, certificates, source)
        else:
            postgres = request.getfixturevalue("postgres_server")
            settings = {
                "HFS_STORAGE_BACKEND": "postgres",
                "HFS_DATABASE_URL": stack.enter_context(postgres.database()),
            }
            if request.param == "protected":
                settings["HFS_BULK_EXPORT_REQUIRES_ACCESS_TOKEN"] = "true"
                opened = embedded(folder, certificates, source, by_address=True, **settings)
            else:
                bucket = stack.enter_context(a_bucket(request.getfixturevalue("minio_server")))
                settings |= stack.enter_context(behind_tls(certificates, bucket))
                # The tests of one server may be minutes apart.
                settings["HFS_BULK_EXPORT_FILE_URL_TTL"] = "3600"
                server = request.getfixturevalue("keycloak_server")
                opened = by_keycloak(folder, certificates, source, server, **settings)
        server = stack.enter_context(opened)
        target = Target(
            server.base,
            GROUP,
            server.client_id,
            server.keys["ES384"],
            server.issued_at,
            requires_access_token=request.param != "keycloak",
            jku=server.jku,
        )
        kit = Kit(target, authority=certificates.authority)
        stack.callback(kit.close)
        yield kit


@pytest.fixture(scope="session")
def exports(kit):
    """Export a level once."""
    return cache(kit.export)
