import os
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import msgspec
import pytest
from helios_omop import OMOPDataProvider, OMOPSettings, helios_data_provider, open_provider

from helios_core import Secret, TypeKey
from helios_core.fhir import FHIRVersion
from helios_core.testing import DataProviderSuite, Holdings

URL = os.environ.get("OMOP_TEST_DATABASE_URL", "postgresql://localhost/omop_test")
FOLDER = Path(__file__).parents[1]
SCHEMA = (FOLDER / "schema.sql").read_text()
ROWS = (FOLDER / "rows.sql").read_text()

PERSON = """
INSERT INTO person (
  person_id, gender_concept_id, year_of_birth, race_concept_id, ethnicity_concept_id,
  person_source_value
) VALUES ($1, 0, 1970, 0, 0, $2)
"""
VISIT = """
INSERT INTO visit_occurrence (
  visit_occurrence_id, person_id, visit_concept_id, visit_start_date, visit_end_date,
  visit_type_concept_id, visit_source_value
) VALUES ($1, $3, 9202, '2026-01-01', '2026-01-01', 0, $2)
"""
CONDITION = """
INSERT INTO condition_occurrence (
  condition_occurrence_id, person_id, condition_concept_id, condition_start_date,
  condition_type_concept_id, condition_source_value
) VALUES ($1, $3, 0, '2026-01-01', 0, $2)
"""
MEASUREMENT = """
INSERT INTO measurement (
  measurement_id, person_id, measurement_concept_id, measurement_date,
  measurement_type_concept_id, measurement_source_value
) VALUES ($1, $3, 0, '2026-01-01', 0, $2)
"""
COHORT = """
WITH definition AS (INSERT INTO cohort_definition VALUES ($1, $2, NULL, 0, NULL, 0, NULL))
INSERT INTO cohort VALUES ($1, $3, '2026-01-01', '2026-01-01')
"""
INSERTS = {
    "Encounter": VISIT,
    "Condition": CONDITION,
    "Observation": MEASUREMENT,
    "Group": COHORT,
}
NEXT_RELEASE = "UPDATE cdm_source SET cdm_release_date = cdm_release_date + 1"


@asynccontextmanager
async def connected(schema):
    connection = await asyncpg.connect(URL, server_settings={"search_path": schema})
    try:
        yield connection
    finally:
        await connection.close()


class TestOMOP(DataProviderSuite):
    holdings = Holdings(
        types=("Patient", "Encounter", "Condition", "Observation", "Group"),
        tenants=("clinic",),
        fhir_versions=(FHIRVersion.R4,),
        to_id=str,
        note_length=50,
        unowned=False,
        shared=False,
        stamps_rows=False,
        keeps_past=False,
    )

    @asynccontextmanager
    async def opened(self, folder):
        self.schema = f"test_{uuid.uuid4().hex}"
        settings = OMOPSettings(database_url=Secret(URL), schema=self.schema, tenant="clinic")
        async with connected(self.schema) as connection:
            await connection.execute(f"CREATE SCHEMA {self.schema}; {SCHEMA}")
            await connection.execute(ROWS.split(";")[0])
            try:
                async with open_provider(settings) as provider:
                    yield provider
            finally:
                await connection.execute(f"DROP SCHEMA {self.schema} CASCADE")

    @asynccontextmanager
    async def inserting(self, provider, samples, **_):
        async with connected(self.schema) as connection, connection.transaction():
            await connection.execute(NEXT_RELEASE)
            for sample in samples:
                key = int(sample.id)
                if sample.resource_type == "Patient":
                    await connection.execute(PERSON, key, sample.note)
                else:
                    patient = int(sample.patients[0])
                    insert = INSERTS[sample.resource_type]
                    await connection.execute(insert, key, sample.note, patient)
            yield

    async def damage(self, provider, resource_type, resource_id):
        async with connected(self.schema) as connection:
            impossible = "UPDATE person SET month_of_birth = 13 WHERE person_id = $1"
            await connection.execute(impossible, int(resource_id))


@pytest.fixture
async def provider():
    suite = TestOMOP()
    async with suite.opened(None) as provider:
        async with connected(suite.schema) as connection:
            await connection.execute(f"DELETE FROM cdm_source; {ROWS}")
        yield provider


async def resource(provider, resource_type, resource_id):
    key = TypeKey("clinic", FHIRVersion.R4, resource_type).resource(resource_id)
    stored = await provider.get(key)
    body = msgspec.json.decode(stored.content)
    assert body.pop("meta")["lastUpdated"] == "2026-03-01T00:00:00.000000Z"
    return body


async def test_a_birth_date_is_as_precise_as_it_is_known(provider):
    persons = [await resource(provider, "Patient", each) for each in ("1", "2", "3")]

    assert [each["birthDate"] for each in persons] == ["1951-04-12", "1963", "1988-11"]
    assert [each["gender"] for each in persons] == ["female", "male", "unknown"]


async def test_a_measurement_is_an_observation_with_its_codes(provider):
    assert await resource(provider, "Observation", "31") == {
        "resourceType": "Observation",
        "id": "31",
        "status": "final",
        "code": {
            "coding": [
                {
                    "system": "http://loinc.org",
                    "code": "4548-4",
                    "display": "Hemoglobin A1c/Hemoglobin.total in Blood",
                }
            ],
            "text": "HbA1c",
        },
        "subject": {"reference": "Patient/1"},
        "encounter": {"reference": "Encounter/11"},
        "effectiveDateTime": "2025-10-02",
        "valueQuantity": {
            "value": 7.10,
            "unit": "%",
            "system": "http://unitsofmeasure.org",
            "code": "%",
        },
    }


async def test_what_was_not_mapped_or_measured_is_left_out(provider):
    assert await resource(provider, "Observation", "34") == {
        "resourceType": "Observation",
        "id": "34",
        "status": "final",
        "code": {"text": "not mapped"},
        "subject": {"reference": "Patient/3"},
        "encounter": {"reference": "Encounter/14"},
        "effectiveDateTime": "2026-02-11",
    }


async def test_a_condition_without_a_text_of_its_own_has_that_of_the_concept(provider):
    condition = await resource(provider, "Condition", "23")

    assert condition["code"]["text"] == "Essential hypertension"
    assert condition["abatementDateTime"] == "2026-01-19"


async def test_a_cohort_is_a_group_of_its_persons(provider):
    group = await resource(provider, "Group", "41")

    assert group["member"] == [
        {"entity": {"reference": "Patient/1"}},
        {"entity": {"reference": "Patient/2"}},
    ]


def test_the_plugin_offers_its_provider():
    assert helios_data_provider().implementation is OMOPDataProvider
