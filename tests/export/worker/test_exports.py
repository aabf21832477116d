"""Kick-off, workers and parts together, on the reference backends."""

import pytest

from helios_core.errors import (
    InvalidParameter,
    ResourceNotFound,
    TooManyExports,
    UnsupportedParameter,
)
from helios_core.fhir.instants import format_instant
from helios_core.model.exports import Level
from helios_core.model.jobs import JobStatus
from helios_core.model.parts import PartKind
from tests.export.worker.hospital import group, observation, patient


@pytest.fixture
async def wards(hospital):
    """Four patients with an observation each, and an organization."""
    for number in range(1, 5):
        await hospital.store(patient(f"p{number}"), observation(f"o{number}", f"p{number}"))
    await hospital.store({"resourceType": "Organization", "id": "org"})
    return hospital


async def test_a_system_export_shows_everything(wards):
    exported = await wards.export()

    assert exported == [
        "Observation/o1",
        "Observation/o2",
        "Observation/o3",
        "Observation/o4",
        "Organization/org",
        "Patient/p1",
        "Patient/p2",
        "Patient/p3",
        "Patient/p4",
    ]


async def test_a_patient_export_is_the_compartment_and_not_the_system(wards):
    """B2-KO-08, B2-KO-09"""
    exported = await wards.export(level=Level.PATIENT)

    assert "Organization/org" not in exported
    assert len(exported) == 8


async def test_patients_named_narrow_a_patient_export(wards):
    """B2-P-22"""
    exported = await wards.export(level=Level.PATIENT, patients=["p2"])

    assert exported == ["Observation/o2", "Patient/p2"]


async def test_a_group_export_shows_its_members_only(wards):
    """B2-KO-08, B2-KO-09"""
    await wards.store(group("g", "Patient/p1", "Patient/p3"))

    exported = await wards.export(group="g")

    assert exported == ["Group/g", "Observation/o1", "Observation/o3", "Patient/p1", "Patient/p3"]


async def test_patients_named_narrow_a_group_export(wards):
    """B2-P-22, RV-48"""
    await wards.store(group("g", "Patient/p1", "Patient/p3"))

    exported = await wards.export(("_type", "Patient"), group="g", patients=["p3"])

    assert exported == ["Patient/p3"]


async def test_nested_groups_are_flattened_and_cycles_read_once(wards):
    """B2-KO-23, TR-29"""
    await wards.store(group("a", "Patient/p1", "Group/b"), group("b", "Group/a", "Patient/p2"))

    assert await wards.export(("_type", "Patient"), group="a") == ["Patient/p1", "Patient/p2"]


@pytest.mark.parametrize(
    "member",
    [
        {"inactive": True},
        {"period": {"end": "2020"}},
        {"period": {"start": "2200-01-01"}},
        {"period": {"start": "2001", "end": "2001-05-06T10:00:00Z"}},
    ],
)
async def test_members_that_are_not_members_now_are_left_out(wards, member):
    """TR-29"""
    await wards.store(group("g", "Patient/p1", {"entity": {"reference": "Patient/p2"}, **member}))

    assert await wards.export(("_type", "Patient"), group="g") == ["Patient/p1"]


@pytest.mark.parametrize("member", [{"inactive": False}, {"period": {"start": "2001"}}, {}])
async def test_members_that_are_members_now_are_kept(wards, member):
    await wards.store(group("g", {"entity": {"reference": "Patient/p2"}, **member}))

    assert await wards.export(("_type", "Patient"), group="g") == ["Patient/p2"]


async def test_a_member_may_be_named_by_an_absolute_url_of_this_server_only(wards):
    await wards.store(group("g", "http://localhost/Patient/p1", "http://elsewhere/Patient/p2"))

    assert await wards.export(("_type", "Patient"), group="g") == ["Patient/p1"]


async def test_an_empty_group_exports_nothing_rather_than_everybody(wards):
    """TR-29"""
    await wards.store(group("g", actual=True))

    job = await wards.work(await wards.kick_off(group="g"))

    assert job.status is JobStatus.COMPLETE
    assert await wards.job_store.parts(job.tenant, job.id) == []


async def test_a_group_of_unresolved_references_exports_nothing(wards):
    await wards.store(group("g", "urn:uuid:0c5d9ca9-54d7-42f5-bfae-a7c19cd217f2"))

    assert await wards.export(group="g") == []


@pytest.mark.parametrize("name", ["none", "gone"])
async def test_a_missing_or_deleted_group_is_refused_before_a_job_exists(wards, name):
    """TR-29"""
    await wards.store(group("gone", "Patient/p1"))
    await wards.delete("Group", "gone")

    with pytest.raises(ResourceNotFound, match=f"Group/{name}"):
        await wards.kick_off(group=name)

    assert wards.announced == []


async def test_a_group_with_a_missing_nested_group_is_refused(wards):
    await wards.store(group("g", "Patient/p1", "Group/none"))

    with pytest.raises(ResourceNotFound, match="Group/none, nested in Group/g,"):
        await wards.kick_off(group="g")


async def test_a_group_of_practitioners_is_refused(wards):
    """B2-KO-23"""
    await wards.store(group("g", "Practitioner/x", type="practitioner"))

    with pytest.raises(UnsupportedParameter, match="practitioner"):
        await wards.kick_off(group="g")


async def test_patients_who_are_no_members_are_refused_without_naming_them(wards):
    await wards.store(group("g", "Patient/p1"))

    with pytest.raises(InvalidParameter, match=r"1 of 2 .* number 2") as refused:
        await wards.kick_off(group="g", patients=["p1", "p4"])

    assert "p4" not in str(refused.value)


async def test_patients_who_do_not_exist_are_refused(wards):
    """B2-P-23"""
    with pytest.raises(InvalidParameter, match=r"1 of 2 .* number 1"):
        await wards.kick_off(level=Level.PATIENT, patients=["nobody", "p1"])


async def test_the_export_shows_the_transaction_time_whatever_is_written_later(wards):
    """B2-MF-02"""
    job = await wards.kick_off(("_type", "Patient"))
    await wards.store(patient("p1", active=True), patient("p5"))
    await wards.delete("Patient", "p2")

    job = await wards.work(job)

    lines = await wards.lines(job)
    assert sorted(line["id"] for line in lines) == ["p1", "p2", "p3", "p4"]
    assert all("active" not in line for line in lines)
    times = [line["meta"]["lastUpdated"] for line in lines]
    assert max(times) <= format_instant(job.transaction_time)


async def test_deletions_since_go_to_deleted_as_transaction_bundles(wards):
    """B2-MF-14, B2-MF-15, B2-MF-16"""
    first = await wards.kick_off()
    await wards.delete("Patient", "p1")
    await wards.delete("Patient", "p2")
    await wards.store(patient("p2"))
    since = format_instant(first.transaction_time)

    job = await wards.work(await wards.kick_off(("_since", since)))

    assert [line["id"] for line in await wards.lines(job)] == ["p2"]
    assert await wards.lines(job, PartKind.DELETED) == [
        {
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [{"request": {"method": "DELETE", "url": "Patient/p1"}}],
        }
    ]


async def test_without_since_nothing_is_reported_as_deleted(wards):
    await wards.delete("Patient", "p1")

    job = await wards.work(await wards.kick_off())

    assert await wards.lines(job, PartKind.DELETED) == []


async def test_an_unreadable_resource_becomes_one_line_of_an_error_file(wards):
    """B2-ST-11"""
    wards.damage("Observation", "o2")

    job = await wards.work(await wards.kick_off(("_type", "Observation")))

    assert job.status is JobStatus.COMPLETE
    assert len(await wards.lines(job)) == 3
    (outcome,) = await wards.lines(job, PartKind.ERROR)
    assert outcome["resourceType"] == "OperationOutcome"
    assert "Observation/o2" in outcome["issue"][0]["diagnostics"]


async def test_ignored_parameters_become_lines_of_an_error_file(wards):
    """B2-MF-20"""
    job = await wards.kick_off(("bogus", "1"), ("_type", "Patient,Nothing"), handling="lenient")

    outcomes = await wards.lines(await wards.work(job), PartKind.ERROR)

    assert [outcome["issue"][0]["severity"] for outcome in outcomes] == ["warning", "warning"]


async def test_ignored_parameters_are_reported_even_when_nothing_is_exported(hospital):
    job = await hospital.work(await hospital.kick_off(("bogus", "1"), handling="lenient"))

    assert len(await hospital.lines(job, PartKind.ERROR)) == 1
    assert await hospital.lines(job) == []


async def test_many_shards_export_each_resource_once(hospital):
    """TR-56"""
    for number in range(300):
        await hospital.store(observation(f"o{number}", "p"))

    job = await hospital.kick_off(("_type", "Observation"), shard_bytes=1000)
    job = await hospital.work(job, workers=4)

    lines = await hospital.lines(job)
    assert len(await hospital.job_store.parts(job.tenant, job.id)) > 20
    assert sorted(line["id"] for line in lines) == sorted(f"o{n}" for n in range(300))


async def test_the_cap_of_active_exports_is_kept_and_an_ended_one_frees_its_slot(wards):
    jobs = [await wards.kick_off() for _ in range(4)]
    with pytest.raises(TooManyExports):
        await wards.kick_off()

    await wards.job_store.cancel("default", jobs[0].id)

    assert (await wards.kick_off()).status is JobStatus.ACCEPTED


async def test_observers_are_told_of_a_job_when_it_is_accepted_and_when_it_has_ended(wards):
    await wards.work(await wards.kick_off())

    assert [job.status for job in wards.announced] == [JobStatus.ACCEPTED, JobStatus.COMPLETE]
