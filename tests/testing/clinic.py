"""A sound data provider over the tables of a clinic, and its suite."""

import itertools
import sqlite3
from contextlib import asynccontextmanager, closing

from helios_core import QueryDataProvider, ResourceQuery, in_thread
from helios_core.fhir import FHIRVersion, from_stamp, to_stamp
from helios_core.testing import DataProviderSuite, Holdings

SCHEMA = """
CREATE TABLE loads (loaded_at INTEGER NOT NULL);
CREATE TABLE patients (id INTEGER PRIMARY KEY, name TEXT, changed_at INTEGER);
CREATE TABLE visits (
  id INTEGER PRIMARY KEY, patient_id INTEGER NOT NULL REFERENCES patients,
  reason TEXT, changed_at INTEGER
);
CREATE INDEX visits_by_patient ON visits (patient_id, id);
CREATE TABLE wards (id INTEGER PRIMARY KEY, name TEXT, changed_at INTEGER);
"""
SETTLED = "SELECT max(loaded_at) AS settled FROM loads"
ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"


def to_patient(row):
    if row["name"].startswith("?"):
        raise ValueError(row["name"])
    return {"name": [{"text": row["name"]}]}


def to_encounter(row):
    return {
        "status": "finished",
        "class": {"system": ACT, "code": "AMB"},
        "subject": {"reference": f"Patient/{row['patient_id']}"},
        "reasonCode": [{"text": row["reason"]}],
        "period": {"start": None},
    }


def to_organization(row):
    return {"name": row["name"]}


PATIENTS = ResourceQuery(
    resource_type="Patient",
    select="SELECT id, name, changed_at FROM patients",
    key="id",
    changed="changed_at",
    resource=to_patient,
)
VISITS = ResourceQuery(
    resource_type="Encounter",
    select="SELECT id, patient_id, reason, changed_at FROM visits",
    key="id",
    changed="changed_at",
    resource=to_encounter,
    patient="patient_id",
)
WARDS = ResourceQuery(
    resource_type="Organization",
    select="SELECT id, name, changed_at FROM wards",
    key="id",
    changed="changed_at",
    resource=to_organization,
)
INSERTS = {
    "Patient": "INSERT INTO patients VALUES (:id, :note, :stamp)",
    "Encounter": "INSERT INTO visits VALUES (:id, :patient, :note, :stamp)",
    "Organization": "INSERT INTO wards VALUES (:id, :note, :stamp)",
}


class Clinic(QueryDataProvider):
    """Reads a file that a job fills, in one transaction at a time."""

    queries = (PATIENTS, VISITS, WARDS)

    def __init__(self, path):
        super().__init__(
            self.queries, settled=SETTLED, tenant="ours", fhir_version=FHIRVersion.R4B
        )
        self.path = path

    async def rows(self, query, parameters):
        return await in_thread(self._rows, query, parameters)

    def _rows(self, query, parameters):
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(query, parameters).fetchall()

    def to_database(self, instant):
        return to_stamp(instant)

    def from_database(self, value):
        return from_stamp(value)


class AppendedClinic(Clinic):
    """The same where rows are only added, so that the past can be read."""

    keeps_past = True


class ClinicSuite(DataProviderSuite):
    """Not collected: its subclasses are."""

    subject_class = Clinic
    schema = SCHEMA
    holdings = Holdings(
        types=("Encounter", "Organization", "Patient"),
        tenants=("ours",),
        fhir_versions=(FHIRVersion.R4B,),
        to_id=str,
        unowned=False,
        shared=False,
        keeps_past=False,
    )

    @asynccontextmanager
    async def opened(self, folder):
        path = folder / "clinic.db"
        if not path.exists():
            with closing(sqlite3.connect(path)) as connection:
                connection.executescript(self.schema)
        self.stamps = itertools.count(1_767_225_600_000_000, 1_000_000)
        yield self.subject_class(path)

    @asynccontextmanager
    async def inserting(self, provider, samples, **_):
        stamp = next(self.stamps)
        with closing(sqlite3.connect(provider.path)) as connection, connection:
            connection.execute("INSERT INTO loads VALUES (?)", [stamp])
            for sample in samples:
                patient = next(iter(sample.patients), None)
                row = {"id": sample.id, "patient": patient, "note": sample.note, "stamp": stamp}
                connection.execute(INSERTS[sample.resource_type], row)
            yield

    async def damage(self, provider, resource_type, resource_id):
        with closing(sqlite3.connect(provider.path)) as connection, connection:
            connection.execute("UPDATE patients SET name = '?secret' WHERE id = ?", [resource_id])


class AppendedClinicSuite(ClinicSuite):
    """The suite of a clinic whose rows are only added."""

    subject_class = AppendedClinic
    holdings = Holdings(
        types=("Encounter", "Organization", "Patient"),
        tenants=("ours",),
        fhir_versions=(FHIRVersion.R4B,),
        to_id=str,
        unowned=False,
        shared=False,
    )
