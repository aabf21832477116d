"""What tests share that send whatever there is to send."""

import sqlite3
from contextlib import closing
from urllib.parse import urlsplit

from helios_core.config.settings import Settings

STORED = [
    {"resourceType": "Patient", "id": "p1", "birthDate": "1970-01-01", "name": [{"family": "A"}]},
    {"resourceType": "Patient", "id": "p2", "active": True},
    {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8302-2"}]},
        "subject": {"reference": "Patient/p1"},
        "valueQuantity": {"value": 180.5, "unit": "cm"},
    },
    {"resourceType": "Binary", "id": "b1", "contentType": "text/plain", "data": "aGVsbG8="},
    {
        "resourceType": "Group",
        "id": "g1",
        "type": "person",
        "member": [{"entity": {"reference": "Patient/p1"}}],
    },
]
UNLIMITED = Settings(bulk_export_kickoffs_per_minute=0, bulk_export_polls_per_minute=0)


class Fuzzed:
    """A site, and what there is to see of its state from behind."""

    def __init__(self, site, database=None):
        self.client = site.client
        self._site = site
        self._database = database
        self.exported = None

    def jobs(self):
        if self._database is None:
            return len(self._site.backends.job_store._entries)
        return self._rows("jobs") + self._rows("shards") + self._rows("parts")

    def versions(self):
        if self._database is None:
            return repr(self._site.backends.data_provider._collections)
        return self._rows("versions")

    def _rows(self, table):
        with closing(sqlite3.connect(self._database)) as connection:
            return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


async def ask(fuzzed, method, url, **options):
    """Return the response after checking that it blames the client, if anybody."""
    response = await fuzzed.client.request(method, url, **options)
    report = f"{method} {url} {options}: {response.status_code} {response.text}"
    assert response.status_code < 500, report
    if response.status_code >= 400 and method != "HEAD":
        assert response.headers["content-type"].startswith("application/fhir+json"), report
        assert response.json()["resourceType"] == "OperationOutcome", report
    return response


def carried(body):
    return {"content": body} if body is None or isinstance(body, bytes) else {"json": body}


async def end(fuzzed, response, sent):
    """End an export that was accepted after all."""
    tenant = [line for line in sent if line[0] == b"x-tenant-id"]
    location = urlsplit(response.headers["content-location"])
    ended = await fuzzed.client.delete(location.path, headers=tenant)
    assert ended.status_code == 202, ended.text
