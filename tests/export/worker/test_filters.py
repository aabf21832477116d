"""Filtered and trimmed exports, on every provider that keeps histories."""

from datetime import timedelta

import msgspec
import pytest

from helios_core.export.cohorts import resolve_view
from helios_core.export.pipeline.shard_export import PartLimits, ShardExport
from helios_core.model.jobs import JobStatus
from helios_core.model.parts import PartKind
from helios_core.storage.data_provider import DataProvider
from tests.export.worker.hospital import group, observation, patient


@pytest.fixture
async def ward(clinic):
    await clinic.store(
        patient("p1", gender="male", birthDate="1970-01-02", name=[{"family": "Ames"}]),
        patient("p2", gender="female", birthDate="1980-01-02"),
        patient("p3", gender="male", birthDate="1990-01-02"),
        observation("o1", "p1", code={"coding": [{"system": "s", "code": "a"}]}),
        observation("o2", "p2", code={"coding": [{"system": "s", "code": "b"}]}),
        observation("o3", "p3", code={"coding": [{"system": "s", "code": "b"}]}),
        group("g", "Patient/p1", "Patient/p2"),
    )
    return clinic


def filtered(*queries):
    return [("_typeFilter", query) for query in queries]


async def deleted(hospital, job):
    bundles = await hospital.lines(job, PartKind.DELETED)
    return sorted(entry["request"]["url"] for bundle in bundles for entry in bundle["entry"])


async def test_a_filter_is_about_its_type_and_leaves_the_others_alone(ward):
    """B2-P-31"""
    exported = await ward.export(
        ("_type", "Patient,Observation"), *filtered("Patient?gender=female")
    )

    assert exported == ["Observation/o1", "Observation/o2", "Observation/o3", "Patient/p2"]


async def test_queries_of_one_type_are_alternatives_and_those_of_several_are_independent(ward):
    """B2-P-34"""
    exported = await ward.export(
        ("_type", "Patient,Observation"),
        *filtered("Patient?gender=female", "Patient?family=ames", "Observation?code=s|a"),
    )

    assert exported == ["Observation/o1", "Patient/p1", "Patient/p2"]


async def test_parameters_of_one_query_must_all_match(ward):
    exported = await ward.export(
        ("_type", "Patient"), *filtered("Patient?gender=male&birthdate=gt1980")
    )

    assert exported == ["Patient/p3"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Observation?subject:Patient.gender=male", ["Observation/o1", "Observation/o3"]),
        ("Observation?patient.family=ames", ["Observation/o1"]),
        ("Patient?_has:Observation:patient:code=b", ["Patient/p2", "Patient/p3"]),
        (
            "Observation?subject:Patient._has:Observation:patient:code=b",
            ["Observation/o2", "Observation/o3"],
        ),
        ("Observation?patient._has:Group:member:_id=g", ["Observation/o1", "Observation/o2"]),
    ],
)
async def test_chains_and_reverse_chains_are_resolved(ward, query, expected):
    """B3-11"""
    exported = await ward.export(("_type", query.partition("?")[0]), *filtered(query))

    assert exported == expected


async def test_lookups_are_resolved_as_of_the_transaction_time(ward):
    job = await ward.kick_off(
        ("_type", "Observation"), *filtered("Observation?subject:Patient.gender=male")
    )
    await ward.store(patient("p1", gender="female"), patient("p2", gender="male"))

    job = await ward.work(job)

    assert sorted(line["id"] for line in await ward.lines(job)) == ["o1", "o3"]


async def test_lookups_see_resources_outside_of_the_cohort(ward):
    exported = await ward.export(
        ("_type", "Observation"),
        *filtered("Observation?subject:Patient.gender=male"),
        group="g",
    )

    assert exported == ["Observation/o1"]


async def test_a_filter_that_nothing_matches_gives_an_empty_export(ward):
    job = await ward.work(
        await ward.kick_off(("_type", "Patient"), *filtered("Patient?gender=other"))
    )

    assert job.status is JobStatus.COMPLETE
    assert await ward.job_store.parts(job.tenant, job.id) == []


async def test_filters_and_since_both_apply(ward):
    since = await ward.now()
    await ward.store(patient("p2", gender="male"), patient("p3", gender="female"))

    exported = await ward.export(
        ("_type", "Patient"), ("_since", since), *filtered("Patient?gender=male")
    )

    assert exported == ["Patient/p2"]


async def test_a_deletion_is_reported_if_the_deleted_content_matched(ward):
    """B2-MF-14, TR-58"""
    since = await ward.now()
    await ward.store(patient("p2", gender="male"))
    for each in ("p1", "p2", "p3"):
        await ward.delete("Patient", each)
    await ward.delete("Observation", "o1")
    queries = filtered("Patient?gender=male&birthdate:missing=true", "Patient?family=ames")

    job = await ward.work(
        await ward.kick_off(("_type", "Patient,Observation"), ("_since", since), *queries)
    )

    assert await deleted(ward, job) == ["Observation/o1", "Patient/p1", "Patient/p2"]


async def test_deletions_outside_of_the_group_are_not_reported_with_a_filter(ward):
    """TR-58"""
    since = await ward.now()
    for each in ("o1", "o2", "o3"):
        await ward.delete("Observation", each)

    job = await ward.work(
        await ward.kick_off(
            ("_type", "Observation"), ("_since", since), *filtered("Observation?code=b"), group="g"
        )
    )

    assert await deleted(ward, job) == ["Observation/o2"]


async def test_deletions_after_until_are_left_to_a_later_export(ward):
    since = await ward.now()
    await ward.delete("Patient", "p1")
    until = await ward.now()
    await ward.delete("Patient", "p3")

    job = await ward.work(
        await ward.kick_off(
            ("_type", "Patient"),
            ("_since", since),
            ("_until", until),
            *filtered("Patient?gender=male"),
        )
    )

    assert await deleted(ward, job) == ["Patient/p1"]


async def test_without_history_deletions_of_a_filtered_type_are_not_reported(ward):
    since = await ward.now()
    await ward.delete("Patient", "p1")
    await ward.delete("Observation", "o1")
    backends = msgspec.structs.replace(ward.backends, data_provider=Forgetful(ward.data_provider))

    job = await ward.kick_off(
        ("_type", "Patient,Observation"), ("_since", since), *filtered("Patient?gender=male")
    )
    job = await ward.work(job, backends=backends)

    assert await deleted(ward, job) == ["Observation/o1"]


class Forgetful(DataProvider):
    """Passes on what is read, and knows nothing of earlier versions."""

    def __init__(self, provider):
        self._provider = provider

    async def transaction_time(self):
        return await self._provider.transaction_time()

    async def plan(self, view, *, shard_bytes):
        return await self._provider.plan(view, shard_bytes=shard_bytes)

    def read(self, view, shard, *, batch_bytes):
        return self._provider.read(view, shard, batch_bytes=batch_bytes)

    def read_deleted(self, view, shard, *, batch_rows):
        return self._provider.read_deleted(view, shard, batch_rows=batch_rows)

    async def get(self, key, *, at=None):
        return await self._provider.get(key, at=at)


async def test_lenient_reports_a_filter_it_cannot_evaluate_and_withholds_its_type(ward):
    """B2-P-33, B2-MF-20"""
    job = await ward.kick_off(
        ("_type", "Patient,Observation"), *filtered("Patient?nosuch=1"), handling="lenient"
    )
    job = await ward.work(job)

    assert {line["resourceType"] for line in await ward.lines(job)} == {"Observation"}
    [outcome] = await ward.lines(job, PartKind.ERROR)
    assert "nosuch" in outcome["issue"][0]["diagnostics"]


async def test_when_every_type_is_withheld_only_errors_are_left(ward):
    job = await ward.kick_off(
        ("_type", "Patient"), *filtered("Patient?nosuch=1"), handling="lenient"
    )
    job = await ward.work(job)

    assert job.status is JobStatus.COMPLETE
    assert await ward.lines(job) == []
    assert len(await ward.lines(job, PartKind.ERROR)) == 1


async def test_elements_trim_what_is_exported(ward):
    """B2-P-16, B2-P-18, B2-P-19, B2-P-20"""
    job = await ward.work(
        await ward.kick_off(
            ("_type", "Patient,Observation"), ("_elements", "id,Patient.birthDate"), group="g"
        )
    )

    lines = await ward.lines(job)
    keys = {line["resourceType"]: set(line) for line in lines}
    assert keys == {
        "Patient": {"resourceType", "id", "meta", "birthDate"},
        "Observation": {"resourceType", "id", "meta", "status", "code"},
    }
    assert all(line["meta"]["tag"][0]["code"] == "SUBSETTED" for line in lines)


async def test_members_of_a_group_are_listed_by_their_ids(ward):
    """TR-25"""
    job = await ward.work(
        await ward.kick_off(("_type", "Patient"), ("_elements", "id"), group="g")
    )

    lines = await ward.lines(job)
    assert sorted(line["id"] for line in lines) == ["p1", "p2"]
    assert all(set(line) == {"resourceType", "id", "meta"} for line in lines)


async def test_a_filter_looks_at_elements_that_are_not_kept(ward):
    job = await ward.work(
        await ward.kick_off(
            ("_type", "Patient"), ("_elements", "id"), *filtered("Patient?family=ames")
        )
    )

    [line] = await ward.lines(job)
    assert line["id"] == "p1"
    assert "name" not in line


async def test_progress_counts_what_was_read(ward):
    await ward.kick_off(("_type", "Patient"), *filtered("Patient?birthdate:missing=true"))
    lease = await ward.job_store.claim("w", lease_for=timedelta(seconds=60), max_attempts=1)
    view = await resolve_view(ward.data_provider, lease.job.request, lease.job.transaction_time)
    export = ShardExport(ward.backends, lease, view=view, limits=PartLimits())

    assert await export.run() == []
    assert export.resources_done == lease.shard.resources == 3


async def test_a_line_that_cannot_be_read_becomes_an_error(hospital):
    await hospital.store(patient("p1", gender="male"), patient("p2", gender="male"))
    backends = msgspec.structs.replace(
        hospital.backends, data_provider=Garbling(hospital.data_provider)
    )

    job = await hospital.kick_off(("_type", "Patient"), ("_elements", "gender"))
    job = await hospital.work(job, backends=backends)

    assert [line["id"] for line in await hospital.lines(job)] == ["p2"]
    [outcome] = await hospital.lines(job, PartKind.ERROR)
    assert "Patient/p1 could not be exported" in outcome["issue"][0]["diagnostics"]


class Garbling(Forgetful):
    """Returns the first line of each batch without its end."""

    async def read(self, view, shard, *, batch_bytes):
        async for batch in self._provider.read(view, shard, batch_bytes=batch_bytes):
            first, *rest = batch.lines
            yield msgspec.structs.replace(batch, lines=[first[:-2], *rest])


async def test_a_resource_that_a_lookup_cannot_read_is_reported(hospital):
    await hospital.store(patient("p1", gender="male"), patient("p2", gender="male"))
    await hospital.store(observation("o1", "p1"), observation("o2", "p2"))
    hospital.damage("Patient", "p1")

    job = await hospital.work(
        await hospital.kick_off(
            ("_type", "Observation"), *filtered("Observation?subject:Patient.gender=male")
        )
    )

    assert [line["id"] for line in await hospital.lines(job)] == ["o2"]
    [outcome] = await hospital.lines(job, PartKind.ERROR)
    assert "Patient/p1 cannot be read" in outcome["issue"][0]["diagnostics"]
