"""Resources that are added to an export of patients because its output refers to them."""

import pytest

from helios_core.errors import InvalidParameter
from helios_core.export.kickoff.request import ExportPolicy
from helios_core.export.pipeline import reference_notes
from helios_core.export.pipeline.shard_export import PartLimits
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.instants import format_instant
from helios_core.fhir.resources import parse_resource
from helios_core.model.exports import Level
from helios_core.model.jobs import JobStatus
from helios_core.storage.data_provider import Put
from tests.export.worker.fixture import about, filled
from tests.export.worker.hospital import observation, patient

TYPES = ("Practitioner", "PractitionerRole", "Organization", "Location", "Medication", "Device")


@pytest.fixture
async def ward(clinic):
    clinic.policy = ExportPolicy(referenced_types=TYPES)
    clinic.between = await filled(clinic)
    return clinic


def referenced(exported: list[str]) -> list[str]:
    return [name for name in exported if name.split("/")[0] in TYPES]


async def test_what_the_output_refers_to_is_added_once(ward):
    """B2-KO-10, TR-56"""
    exported = await ward.export(level=Level.PATIENT)

    assert referenced(exported) == [
        "Organization/org1",
        "Practitioner/prac1",
        "Practitioner/prac2",
    ]


async def test_a_group_export_adds_what_its_members_data_refer_to(ward):
    """B2-KO-10"""
    assert referenced(await ward.export(group="g2")) == []
    assert "Practitioner/prac1" in await ward.export(group="g1")


async def test_a_system_export_has_everything_once_anyway(ward):
    """TR-56"""
    exported = await ward.export()

    assert len(exported) == len(set(exported))
    assert "Practitioner/prac9" in exported


async def test_an_operator_switches_it_off_with_an_empty_list(ward):
    """B2-KO-10"""
    ward.policy = ExportPolicy(referenced_types=())

    assert referenced(await ward.export(level=Level.PATIENT)) == []


async def test_a_list_of_types_limits_referenced_types_too(ward):
    """B2-P-09"""
    query = ("_type", "Encounter,Organization")

    exported = await ward.export(query, level=Level.PATIENT)

    assert referenced(exported) == ["Organization/org1"]
    assert {name.split("/")[0] for name in exported} == {"Encounter", "Organization"}


async def test_referenced_types_alone_cannot_be_requested(ward):
    """B2-P-13"""
    with pytest.raises(InvalidParameter, match="Organization"):
        await ward.kick_off(("_type", "Organization"), level=Level.PATIENT)


async def test_a_referenced_resource_may_be_older_than_since(ward):
    """B2-P-07, B3-06"""
    since = format_instant(ward.between)
    await ward.store(
        about("Encounter", "enc2", "p2", serviceProvider={"reference": "Organization/org1"})
    )

    exported = await ward.export(("_since", since), level=Level.PATIENT)

    assert referenced(exported) == ["Organization/org1"]


async def test_referenced_resources_are_exported_as_of_the_transaction_time(ward):
    job = await ward.kick_off(level=Level.PATIENT)
    await ward.store({"resourceType": "Organization", "id": "org1", "name": "later"})
    await ward.delete("Practitioner", "prac1")

    lines = await ward.lines(await ward.work(job))

    [organization] = [line for line in lines if line["id"] == "org1"]
    assert "name" not in organization
    assert "prac1" in {line["id"] for line in lines}


async def test_references_in_referenced_resources_are_not_followed(ward):
    """Only references from the output itself count."""
    await ward.store(
        {
            "resourceType": "PractitionerRole",
            "id": "role",
            "practitioner": {"reference": "Practitioner/prac9"},
        },
        observation("obs-r", "p1", performer=[{"reference": "PractitionerRole/role"}]),
    )

    exported = referenced(await ward.export(level=Level.PATIENT))

    assert "PractitionerRole/role" in exported
    assert "Practitioner/prac9" not in exported


@pytest.mark.parametrize(
    "reference",
    [
        "http://localhost/Organization/org9",
        "Organization/org9/_history/1",
        "http://localhost/Organization/org9/_history/1",
    ],
)
async def test_absolute_and_versioned_references_to_this_server_count(ward, reference):
    await ward.store(observation("obs-r", "p1", performer=[{"reference": reference}]))

    assert "Organization/org9" in await ward.export(level=Level.PATIENT)


@pytest.mark.parametrize(
    "reference",
    [
        "http://elsewhere/Organization/org9",
        "#Organization/org9",
        "urn:uuid:Organization/org9",
        "Organization/org9x",
        "Organization?identifier=Organization/org9",
    ],
)
async def test_references_to_elsewhere_or_nowhere_add_nothing(ward, reference):
    """TR-60"""
    await ward.store(
        observation(
            "obs-r",
            "p1",
            performer=[{"reference": reference}],
            note=[{"text": '"reference":"Organization/org9"'}],
        )
    )

    job = await ward.work(await ward.kick_off(level=Level.PATIENT))

    names = {f"{line['resourceType']}/{line['id']}" for line in await ward.lines(job)}
    assert job.status is JobStatus.COMPLETE
    assert "Organization/org9" not in names
    assert "Observation/obs-r" in names


async def test_slashes_may_be_escaped(ward):
    body = rb"""{"resourceType":"Observation","id":"obs-s","status":"final",
    "subject":{"reference":"Patient\/p1"},"performer":[{"reference":"Organization\/org9"}]}"""
    put = Put(resource=parse_resource(body, FHIRVersion.R4))
    await ward.data_provider.write("default", FHIRVersion.R4, [put])

    assert "Organization/org9" in await ward.export(level=Level.PATIENT)


async def test_what_a_filter_or_the_elements_leave_out_refers_to_nothing(ward):
    """B3-12"""
    filtered = ("_typeFilter", "Encounter?_id=enc2")
    trimmed = (("_type", "Encounter,Practitioner,Organization"), ("_elements", "status"))

    assert "Practitioner/prac1" not in await ward.export(filtered, level=Level.PATIENT)
    assert referenced(await ward.export(*trimmed, level=Level.PATIENT)) == []


async def test_resources_of_another_patient_are_never_added(ward):
    """B2-P-22, TR-58"""
    ward.policy = ExportPolicy(referenced_types=("Observation",))
    await ward.store(
        observation("obs-p4", "p4"),
        observation("obs-c", "p1", derivedFrom=[{"reference": "Observation/obs-p4"}]),
    )

    assert "Observation/obs-p4" not in await ward.export(group="g1")


async def test_patients_and_binaries_are_never_added(ward):
    """B2-P-22, B2-KO-11"""
    ward.policy = ExportPolicy(referenced_types=("Patient", "Binary", "Nothing"))
    await ward.store(
        patient("p8"), observation("obs-c", "p1", derivedFrom=[{"reference": "Binary/bin9"}])
    )

    exported = await ward.export(group="g1")

    assert {"Patient/p8", "Binary/bin9"}.isdisjoint(exported)


async def test_the_notes_of_the_first_phase_are_not_exported(ward):
    job = await ward.work(await ward.kick_off(level=Level.PATIENT))

    assert [each async for each in ward.job_store.notes(job.tenant, job.id)]
    assert all(line["resourceType"] for line in await ward.lines(job))


async def test_more_references_than_are_kept_in_memory_are_all_noted(ward, monkeypatch):
    """TR-56"""
    monkeypatch.setattr(reference_notes, "MAX_PENDING", 2)
    for number in range(20):
        await ward.store({"resourceType": "Practitioner", "id": f"more{number}"})
        performer = [{"reference": f"Practitioner/more{number}"}]
        await ward.store(observation(f"o{number}", "p1", performer=performer))

    ward.limits = PartLimits(batch_bytes=500)
    job = await ward.kick_off(level=Level.PATIENT)
    lines = await ward.lines(await ward.work(job))

    names = [f"{line['resourceType']}/{line['id']}" for line in lines]
    assert len(names) == len(set(names))
    assert {f"Practitioner/more{number}" for number in range(20)} < set(names)


async def test_many_shards_add_each_resource_once(ward):
    """TR-56"""
    for number in range(200):
        performer = [{"reference": f"Practitioner/prac{number % 2 + 1}"}]
        await ward.store(observation(f"o{number}", "p1", performer=performer))

    job = await ward.kick_off(level=Level.PATIENT, shard_bytes=2000)
    lines = await ward.lines(await ward.work(job, workers=4))

    names = [f"{line['resourceType']}/{line['id']}" for line in lines]
    assert len(names) == len(set(names))
    assert referenced(sorted(names)) == [
        "Organization/org1",
        "Practitioner/prac1",
        "Practitioner/prac2",
    ]


async def test_a_resource_deleted_before_the_export_is_not_added(ward):
    """TR-57"""
    await ward.delete("Organization", "org1")

    assert "Organization/org1" not in await ward.export(level=Level.PATIENT)
