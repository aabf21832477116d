"""FHIR exports of tables in the OMOP common data model, version 5.4, in PostgreSQL."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date
from typing import Annotated, Any

import asyncpg
import msgspec

from helios_core import (
    API_LEVEL,
    Backend,
    BackendError,
    BackendUnavailable,
    DataProvider,
    QueryDataProvider,
    QueryRow,
    Reach,
    ResourceQuery,
    Secret,
    hookimpl,
    numbered_parameters,
)

SETTLED = "SELECT max(cdm_release_date)::timestamp AT TIME ZONE 'UTC' AS settled FROM cdm_source"

GENDERS = {8507: "male", 8532: "female"}
CLASSES = {9201: "IMP", 9202: "AMB", 9203: "EMER"}
SYSTEMS = {
    "SNOMED": "http://snomed.info/sct",
    "LOINC": "http://loinc.org",
    "ICD10CM": "http://hl7.org/fhir/sid/icd-10-cm",
}
UCUM = "http://unitsofmeasure.org"
ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"


def to_patient(row: QueryRow) -> dict[str, Any]:
    """Return a person as a Patient."""
    return {
        "identifier": [{"value": row["person_source_value"]}],
        "gender": GENDERS.get(row["gender_concept_id"], "unknown"),
        "birthDate": _birth_date(row["year_of_birth"], row["month_of_birth"], row["day_of_birth"]),
    }


def to_encounter(row: QueryRow) -> dict[str, Any]:
    """Return a visit as an Encounter."""
    return {
        "status": "finished",
        "class": {"system": ACT_CODE, "code": CLASSES.get(row["visit_concept_id"], "AMB")},
        "type": [{"text": row["visit_source_value"]}],
        "subject": _reference("Patient", row["person_id"]),
        "period": {"start": row["visit_start_date"], "end": row["visit_end_date"]},
    }


def to_condition(row: QueryRow) -> dict[str, Any]:
    """Return a condition occurrence as a Condition."""
    return {
        "code": _concept(row, row["condition_source_value"]),
        "subject": _reference("Patient", row["person_id"]),
        "encounter": _reference("Encounter", row["visit_occurrence_id"]),
        "onsetDateTime": row["condition_start_date"],
        "abatementDateTime": row["condition_end_date"],
    }


def to_observation(row: QueryRow) -> dict[str, Any]:
    """Return a measurement as an Observation."""
    quantity = {"value": row["value_as_number"], "unit": row["unit_source_value"]}
    unit = {"system": UCUM, "code": row["ucum"]} if row["ucum"] else {}
    return {
        "status": "final",
        "code": _concept(row, row["measurement_source_value"]),
        "subject": _reference("Patient", row["person_id"]),
        "encounter": _reference("Encounter", row["visit_occurrence_id"]),
        "effectiveDateTime": row["measurement_date"],
        "valueQuantity": None if row["value_as_number"] is None else quantity | unit,
    }


def to_group(row: QueryRow) -> dict[str, Any]:
    """Return a cohort as a Group, which can be exported."""
    return {
        "type": "person",
        "actual": True,
        "name": row["cohort_definition_name"],
        "member": [{"entity": _reference("Patient", person)} for person in row["members"]],
    }


def _birth_date(year: int, month: int | None, day: int | None) -> str:
    if month is None:
        return f"{year:04}"
    whole = date(year, month, day or 1).isoformat()
    return whole[:7] if day is None else whole


def _reference(resource_type: str, key: int | None) -> dict[str, str] | None:
    return None if key is None else {"reference": f"{resource_type}/{key}"}


def _concept(row: QueryRow, text: str | None) -> dict[str, Any]:
    system = SYSTEMS.get(row["vocabulary_id"])
    coding = {"system": system, "code": row["concept_code"], "display": row["concept_name"]}
    return {"coding": [coding] if system else [], "text": text or row["concept_name"]}


PATIENTS = ResourceQuery(
    resource_type="Patient",
    select="""
        SELECT p.*,
          (SELECT max(cdm_release_date)::timestamp AT TIME ZONE 'UTC' FROM cdm_source) AS released
        FROM person AS p
    """,
    key="person_id",
    changed="released",
    resource=to_patient,
)

ENCOUNTERS = ResourceQuery(
    resource_type="Encounter",
    select="""
        SELECT v.*,
          (SELECT max(cdm_release_date)::timestamp AT TIME ZONE 'UTC' FROM cdm_source) AS released
        FROM visit_occurrence AS v
    """,
    key="visit_occurrence_id",
    patient="person_id",
    changed="released",
    resource=to_encounter,
)

CONDITIONS = ResourceQuery(
    resource_type="Condition",
    select="""
        SELECT o.*, c.vocabulary_id, c.concept_code, c.concept_name,
          (SELECT max(cdm_release_date)::timestamp AT TIME ZONE 'UTC' FROM cdm_source) AS released
        FROM condition_occurrence AS o
        LEFT JOIN concept AS c ON c.concept_id = o.condition_concept_id
    """,
    key="condition_occurrence_id",
    patient="person_id",
    changed="released",
    resource=to_condition,
)

OBSERVATIONS = ResourceQuery(
    resource_type="Observation",
    select="""
        SELECT m.*, c.vocabulary_id, c.concept_code, c.concept_name, u.concept_code AS ucum,
          (SELECT max(cdm_release_date)::timestamp AT TIME ZONE 'UTC' FROM cdm_source) AS released
        FROM measurement AS m
        LEFT JOIN concept AS c ON c.concept_id = m.measurement_concept_id
        LEFT JOIN concept AS u ON u.concept_id = m.unit_concept_id AND u.vocabulary_id = 'UCUM'
    """,
    key="measurement_id",
    patient="person_id",
    changed="released",
    resource=to_observation,
)

GROUPS = ResourceQuery(
    resource_type="Group",
    select="""
        SELECT d.cohort_definition_id, d.cohort_definition_name,
          ARRAY(
            SELECT c.subject_id FROM cohort AS c
            WHERE c.cohort_definition_id = d.cohort_definition_id ORDER BY c.subject_id
          ) AS members,
          (SELECT max(cdm_release_date)::timestamp AT TIME ZONE 'UTC' FROM cdm_source) AS released
        FROM cohort_definition AS d
    """,
    key="cohort_definition_id",
    changed="released",
    resource=to_group,
)

QUERIES = (PATIENTS, ENCOUNTERS, CONDITIONS, OBSERVATIONS, GROUPS)


class OMOPDataProvider(QueryDataProvider):
    """Reads the current release of a database in the OMOP layout."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", *, tenant: str) -> None:
        super().__init__(QUERIES, settled=SETTLED, tenant=tenant)
        self._pool = pool

    async def rows(self, query: str, parameters: Mapping[str, object]) -> Sequence[QueryRow]:
        """Run a query on a connection of the pool."""
        text, values = numbered_parameters(query, parameters)
        try:
            return await self._pool.fetch(text, *values)
        except (OSError, asyncpg.PostgresConnectionError) as error:
            raise BackendUnavailable("the OMOP database cannot be reached") from error
        except asyncpg.PostgresError as error:
            raise BackendError(
                f"the OMOP database refused a query: {type(error).__name__}"
            ) from error


class OMOPSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the tables are."""

    database_url: Annotated[
        Secret,
        msgspec.Meta(
            title="postgresql://user@host:port/database", description="Database of the tables"
        ),
    ]
    schema: Annotated[str, msgspec.Meta(title="name", description="Schema of the tables")] = (
        "public"
    )
    tenant: Annotated[
        str, msgspec.Meta(title="name", description="The tenant that the tables belong to")
    ] = "default"


@asynccontextmanager
async def open_provider(settings: OMOPSettings) -> AsyncIterator[OMOPDataProvider]:
    """Open a pool of connections that cannot write."""
    options = {"search_path": settings.schema, "default_transaction_read_only": "on"}
    async with asyncpg.create_pool(
        settings.database_url.reveal(), min_size=1, server_settings=options
    ) as pool:
        yield OMOPDataProvider(pool, tenant=settings.tenant)


@hookimpl
def helios_data_provider() -> Backend[DataProvider]:
    """Offer the tables as a data provider."""
    return Backend(
        api_level=API_LEVEL,
        reach=Reach.MACHINES,
        implementation=OMOPDataProvider,
        settings=OMOPSettings,
        open=open_provider,
    )
