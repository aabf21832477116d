"""
What an export of some patients shows of resources that several patients share.

HAPI #3700: the export of one Group showed the other Groups of its members.
"""

import pytest

from helios_core.model.exports import Level
from helios_core.model.parts import PartKind
from tests.export.worker.fixture import provenance
from tests.export.worker.hospital import Hospital, group, observation, patient

G1, G2 = group("g1", "Patient/n1", type="person"), group("g2", "Patient/n1", "Patient/n2")


def refs(*ids: str) -> list[dict]:
    return [{"reference": f"Patient/{each}"} for each in ids]


def appointment(resource_id: str, *patients: str) -> dict:
    participants = [{"actor": each, "status": "accepted"} for each in refs(*patients)]
    return {
        "resourceType": "Appointment",
        "id": resource_id,
        "status": "booked",
        "participant": participants,
    }


def shared(*patients: str) -> list[dict]:
    """Resources that are about these patients on an equal footing, one of each type of R4."""
    entities = [{"what": each} for each in refs(*patients)]
    return [
        {"resourceType": "Account", "id": "s", "status": "active", "subject": refs(*patients)},
        appointment("s", *patients),
        {"resourceType": "AuditEvent", "id": "s", "entity": entities},
        {"resourceType": "Person", "id": "s", "link": [{"target": t} for t in refs(*patients)]},
        provenance("s", *(f"Patient/{each}" for each in patients)),
        {"resourceType": "Schedule", "id": "s", "actor": refs(*patients)},
    ]


@pytest.fixture
async def clinic(clinic):
    await clinic.store(patient("n1"), patient("n2"), observation("o1", "n1"), G1, G2)
    return clinic


async def errors(clinic: Hospital, *query, **options) -> list[tuple[str, str]]:
    job = await clinic.work(await clinic.kick_off(*query, **options))
    issues = [line["issue"][0] for line in await clinic.lines(job, PartKind.ERROR)]
    return sorted((issue["severity"], issue["diagnostics"]) for issue in issues)


async def output(clinic: Hospital, *query, **options) -> str:
    """Return everything that an export writes to output files."""
    job = await clinic.work(await clinic.kick_off(*query, **options))
    parts = await clinic.job_store.parts(job.tenant, job.id)
    keys = [part.key for part in parts if part.key.kind is PartKind.OUTPUT]
    chunks = [chunk for key in keys async for chunk in clinic.output_store.read(key)]
    return b"".join(chunks).decode()


async def deletions(clinic: Hospital, since: str, **options) -> list[str]:
    job = await clinic.work(await clinic.kick_off(("_since", since), **options))
    bundles = await clinic.lines(job, PartKind.DELETED)
    return sorted(entry["request"]["url"] for bundle in bundles for entry in bundle["entry"])


async def test_a_group_export_shows_no_other_group_of_its_members(clinic):
    assert await clinic.export(group="g1") == ["Group/g1", "Observation/o1", "Patient/n1"]
    assert await clinic.export(("_type", "Group"), group="g1") == ["Group/g1"]
    assert await errors(clinic, group="g1") == []


async def test_a_group_export_of_some_members_shows_no_other_group(clinic):
    exported = await clinic.export(group="g1", patients=["n1"])

    assert exported == ["Group/g1", "Observation/o1", "Patient/n1"]


async def test_the_exported_group_is_shown_although_it_has_other_members(clinic):
    """The client names it itself."""
    exported = await clinic.export(group="g2", patients=["n1"])

    assert exported == ["Group/g2", "Observation/o1", "Patient/n1"]


async def test_a_patient_export_of_some_patients_shows_no_group(clinic):
    exported = await clinic.export(level=Level.PATIENT, patients=["n1"])

    assert exported == ["Observation/o1", "Patient/n1"]
    assert await errors(clinic, level=Level.PATIENT, patients=["n1"]) == []


async def test_exports_of_everybody_show_every_group(clinic):
    expected = ["Group/g1", "Group/g2", "Observation/o1", "Patient/n1", "Patient/n2"]

    assert await clinic.export(level=Level.PATIENT) == expected
    assert await clinic.export() == expected


async def test_nested_groups_leave_with_the_group_they_are_nested_in(clinic):
    await clinic.store(group("outer", "Group/inner"), group("inner", "Group/core", "Patient/n1"))
    await clinic.store(group("core", "Patient/n1"), group("old", "Patient/n1"))

    exported = await clinic.export(("_type", "Group"), group="outer")

    # Group/outer itself is in no patient's compartment.
    assert exported == ["Group/core", "Group/inner"]


async def test_a_group_nested_only_formerly_stays(clinic):
    nested = {"entity": {"reference": "Group/g2"}, "period": {"end": "2020"}}
    await clinic.store(group("outer", "Patient/n1", nested))

    assert await clinic.export(("_type", "Group"), group="outer") == ["Group/outer"]


@pytest.mark.parametrize("organizer", ["Patient", "Group"])
async def test_organized_output_shows_no_other_group(clinic, organizer):
    text = await output(clinic, ("organizeOutputBy", organizer), group="g1")

    assert '"id":"g1"' in text
    assert "g2" not in text


@pytest.mark.parametrize(
    "associated", [(), (("includeAssociatedData", "RelevantProvenanceResources"),)]
)
async def test_the_provenance_of_another_group_stays(clinic, associated):
    await clinic.store(provenance("of-g1", "Group/g1"), provenance("of-g2", "Group/g2"))

    exported = await clinic.export(*associated, group="g1")

    assert "Provenance/of-g1" in exported
    assert "Provenance/of-g2" not in exported


async def test_another_group_is_no_referenced_context(clinic):
    clinic.policy = clinic.policy.__class__(referenced_types=("Group",))
    about = observation("o2", "n1") | {"focus": [{"reference": "Group/g2"}]}
    empty = observation("o3", "n1") | {"focus": [{"reference": "Group/g0"}]}
    await clinic.store(about, empty, group("g0"))

    assert "Group/g2" not in await clinic.export(group="g1")
    assert "Group/g0" not in await clinic.export(group="g1")


async def test_the_deletion_of_another_group_is_not_named(clinic):
    await clinic.store(group("outer", "Patient/n1", "Group/inner"), group("inner", "Patient/n1"))
    since = await clinic.now()
    await clinic.store(group("outer", "Patient/n1"))
    await clinic.delete("Group", "g2")
    await clinic.delete("Group", "inner")

    assert await deletions(clinic, since, group="outer") == ["Group/inner"]
    assert await deletions(clinic, since, group="g1") == []
    assert await deletions(clinic, since, level=Level.PATIENT, patients=["n1"]) == []
    assert await deletions(clinic, since, level=Level.PATIENT) == ["Group/g2", "Group/inner"]


async def test_a_damaged_group_of_others_is_not_named(hospital):
    await hospital.store(patient("n1"), patient("n2"), G1, G2)
    hospital.damage("Group", "g2")

    assert await errors(hospital, group="g1") == []
    assert "Group/g2" in str(await errors(hospital))


async def test_a_dry_run_counts_what_may_leave(clinic):
    job = await clinic.kick_off(group="g1")
    progress = await clinic.job_store.progress(job.tenant, job.id)

    assert progress.resources_total == 3
    job = await clinic.work(job)
    progress = await clinic.job_store.progress(job.tenant, job.id)
    assert (progress.resources_done, progress.resources_total) == (3, 3)


async def test_a_patient_who_links_to_the_one_who_is_named_stays(clinic):
    to_n1, to_n2 = ([{"other": other, "type": "seealso"}] for other in refs("n1", "n2"))
    await clinic.store(patient("n3", link=to_n1), patient("n1", link=to_n2))

    exported = await clinic.export(("_type", "Patient"), level=Level.PATIENT, patients=["n1"])

    assert exported == ["Patient/n1"]


@pytest.mark.parametrize("level", [Level.PATIENT, Level.GROUP])
async def test_what_is_about_others_too_stays_and_is_counted(clinic, level):
    await clinic.store(*shared("n1", "n2"))
    options = {"group": "g2"} if level is Level.GROUP else {"level": level}

    alone = await clinic.export(**options, patients=["n1"])
    both = await clinic.export(**options, patients=["n1", "n2"])
    reports = await errors(clinic, **options, patients=["n1"])

    types = [resource["resourceType"] for resource in shared("n1", "n2")]
    assert not {f"{name}/s" for name in types} & {*alone}
    assert {f"{name}/s" for name in types} <= {*both}
    assert [severity for severity, _ in reports] == ["information"] * len(types)
    assert all("1 resources of type" in text for _, text in reports)
    assert "n2" not in str(reports)


async def test_what_members_and_others_share_leaves_with_a_whole_group(clinic):
    """Only `patient` excludes the compartments of others."""
    await clinic.store(*shared("n1", "n2"))

    exported = await clinic.export(group="g1")

    assert {f"{each['resourceType']}/s" for each in shared()} <= {*exported}
    assert "Patient/n2" not in exported


async def test_where_others_have_only_a_part_the_resource_leaves(clinic):
    """TR-27: it is in the compartment of a patient who is named, as performer or as subject."""
    await clinic.store(
        observation("own", "n1", performer=refs("n2")),
        observation("other", "n2", performer=refs("n1")),
    )

    exported = await clinic.export(("_type", "Observation"), level=Level.PATIENT, patients=["n1"])

    assert exported == ["Observation/o1", "Observation/other", "Observation/own"]


async def test_the_deletion_of_what_was_about_others_too_is_not_named(clinic):
    await clinic.store(appointment("both", "n1", "n2"), appointment("one", "n1"))
    since = await clinic.now()
    await clinic.delete("Appointment", "both")
    await clinic.delete("Appointment", "one")

    options = {"level": Level.PATIENT}
    assert await deletions(clinic, since, **options, patients=["n1"]) == ["Appointment/one"]
    assert len(await deletions(clinic, since, **options)) == 2


async def test_provenance_of_what_is_about_others_too_stays(clinic):
    await clinic.store(appointment("both", "n1", "n2"), provenance("p", "Appointment/both"))

    for value in ((), (("includeAssociatedData", "LatestProvenanceResources"),)):
        exported = await clinic.export(*value, level=Level.PATIENT, patients=["n1"])
        assert "Provenance/p" not in exported


async def test_the_newest_provenance_is_the_newest_that_may_leave(clinic):
    await clinic.store(
        provenance("old", "Observation/o1", recorded="2020-01-01T00:00:00Z"),
        provenance("new", "Observation/o1", "Patient/n2", recorded="2021-01-01T00:00:00Z"),
    )

    latest = ("includeAssociatedData", "LatestProvenanceResources")
    exported = await clinic.export(latest, level=Level.PATIENT, patients=["n1"])

    assert [each for each in exported if each.startswith("Provenance")] == ["Provenance/old"]


async def test_organized_output_counts_what_is_about_others_too(clinic):
    await clinic.store(appointment("both", "n1", "n2"), appointment("one", "n1"))

    query, options = ("organizeOutputBy", "Patient"), {"level": Level.PATIENT}
    text = await output(clinic, query, **options, patients=["n1"])
    [(_, report)] = await errors(clinic, query, **options, patients=["n1"])

    assert '"id":"one"' in text
    assert "both" not in text
    assert report.startswith("1 resources of type Appointment")
