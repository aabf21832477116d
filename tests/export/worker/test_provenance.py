"""Which Provenance is exported."""

import pytest

from helios_core.errors import InvalidParameter, UnsupportedParameter
from helios_core.fhir.instants import format_instant
from helios_core.model.exports import Level
from helios_core.model.parts import PartKind
from tests.export.worker.fixture import filled, provenance
from tests.export.worker.hospital import observation, patient


@pytest.fixture
async def ward(clinic):
    clinic.between = await filled(clinic)
    return clinic


def provenances(exported: list[str]) -> list[str]:
    names = [each for each in exported if each.startswith("Provenance/")]
    assert len(names) == len(set(names))
    return [name.removeprefix("Provenance/") for name in names]


async def test_an_export_of_patients_brings_what_targets_their_compartments(ward):
    """B2-P-30, TR-28"""
    assert provenances(await ward.export(level=Level.PATIENT)) == ["prov-new", "prov-old"]


async def test_a_system_export_brings_all(ward):
    """B2-P-30, TR-28"""
    assert provenances(await ward.export()) == ["prov-new", "prov-old", "prov-org"]


@pytest.mark.parametrize("level", [Level.SYSTEM, Level.PATIENT])
async def test_a_list_of_types_without_it_leaves_it_out(ward, level):
    """B2-P-30"""
    assert await ward.export(("_type", "Encounter"), level=level) == [
        "Encounter/enc1",
        "Encounter/enc2",
        "Encounter/enc3",
    ]


async def test_a_group_export_brings_that_of_its_members_only(ward):
    """B2-P-30"""
    await ward.store(observation("obs-4", "p4"), provenance("prov-4", "Observation/obs-4"))

    assert provenances(await ward.export(group="g1")) == ["prov-new", "prov-old"]
    assert provenances(await ward.export(group="g2")) == ["prov-4"]


async def test_one_that_targets_a_patient_and_more_is_exported_once(ward):
    """TR-56"""
    await ward.store(provenance("prov-p", "Patient/p1", "Observation/obs-a1"))

    exported = provenances(await ward.export(level=Level.PATIENT))

    assert exported == ["prov-new", "prov-old", "prov-p"]


async def test_since_applies_to_the_provenance_itself_by_default(ward):
    """B2-P-05, B2-P-30"""
    await ward.store(provenance("prov-late", "Observation/obs-a1"))

    exported = await ward.export(("_since", format_instant(ward.between)), level=Level.PATIENT)

    assert provenances(exported) == ["prov-late"]


async def test_a_filter_applies_to_it_by_default(ward):
    """B3-09"""
    query = ("_typeFilter", "Provenance?_id=prov-old")

    assert provenances(await ward.export(query, level=Level.PATIENT)) == ["prov-old"]


@pytest.mark.parametrize("level", [Level.SYSTEM, Level.PATIENT])
async def test_the_latest_is_the_newest_of_each_exported_resource(ward, level):
    """B2-P-25, B2-P-26"""
    query = ("includeAssociatedData", "LatestProvenanceResources")
    newest = ["prov-new", "prov-org"] if level is Level.SYSTEM else ["prov-new"]

    assert provenances(await ward.export(query, level=level)) == newest


async def test_the_newest_was_recorded_last_wherever_its_clock_was(ward):
    """B2-P-26"""
    await ward.store(
        provenance("prov-east", "Encounter/enc2", recorded="2024-06-01T01:00:00+05:00"),
        provenance("prov-west", "Encounter/enc2", recorded="2024-05-31T23:00:00-01:00"),
    )
    query = (("_type", "Encounter"), ("includeAssociatedData", "LatestProvenanceResources"))

    assert provenances(await ward.export(*query)) == ["prov-west"]


async def test_the_relevant_are_all_of_exported_resources(ward):
    """B2-P-25, B2-P-27, B3-12"""
    query = (("_type", "Observation"), ("includeAssociatedData", "RelevantProvenanceResources"))

    assert provenances(await ward.export(*query)) == ["prov-new", "prov-old"]


@pytest.mark.parametrize(
    "query",
    [
        ("LatestProvenanceResources,RelevantProvenanceResources",),
        ("RelevantProvenanceResources", "LatestProvenanceResources"),
    ],
)
async def test_the_wider_choice_wins(ward, query):
    """B2-P-28"""
    pairs = [("includeAssociatedData", value) for value in query]

    exported = await ward.export(("_type", "Observation"), *pairs)

    assert provenances(exported) == ["prov-new", "prov-old"]


async def test_associated_provenance_may_be_older_than_since(ward):
    """B3-12"""
    await ward.store(observation("obs-a1", "p1", note=[{"text": "again"}]))
    query = (
        ("_since", format_instant(ward.between)),
        ("includeAssociatedData", "RelevantProvenanceResources"),
    )

    exported = await ward.export(*query, level=Level.PATIENT)

    assert provenances(exported) == ["prov-new", "prov-old"]


async def test_a_resource_that_a_filter_leaves_out_adds_no_provenance(ward):
    """B3-12"""
    query = (
        ("_typeFilter", "Observation?_id=obs-a2"),
        ("includeAssociatedData", "RelevantProvenanceResources"),
    )

    assert provenances(await ward.export(*query, level=Level.PATIENT)) == []


@pytest.mark.parametrize("value", ["Nope", "_own"])
async def test_an_unknown_choice_is_refused_or_reported(ward, value):
    """B2-P-29"""
    with pytest.raises(InvalidParameter, match="includeAssociatedData"):
        await ward.kick_off(("includeAssociatedData", value))

    job = await ward.kick_off(("includeAssociatedData", value), handling="lenient")
    [outcome] = await ward.lines(await ward.work(job), PartKind.ERROR)

    assert "includeAssociatedData" in outcome["issue"][0]["diagnostics"]


async def test_it_cannot_be_combined_with_organized_output(ward):
    choice = ("includeAssociatedData", "RelevantProvenanceResources")

    with pytest.raises(UnsupportedParameter, match="organizeOutputBy"):
        await ward.kick_off(choice, ("organizeOutputBy", "Patient"))


async def test_deletions_of_provenance_are_reported_if_only_the_latest_is_exported(ward):
    await ward.store(patient("p9"), provenance("prov-9", "Patient/p9"))
    since = format_instant(await ward.data_provider.transaction_time())
    await ward.delete("Provenance", "prov-9")
    await ward.store(patient("p9", gender="male"))
    query = (("_since", since), ("includeAssociatedData", "LatestProvenanceResources"))

    job = await ward.work(await ward.kick_off(*query))

    [bundle] = await ward.lines(job, PartKind.DELETED)
    assert [entry["request"]["url"] for entry in bundle["entry"]] == ["Provenance/prov-9"]


async def test_many_shards_export_each_once(ward):
    """TR-56"""
    for number in range(60):
        await ward.store(provenance(f"prov-{number:02}", "Observation/obs-a1", "Patient/p1"))

    exported = provenances(await ward.export(level=Level.PATIENT, shard_bytes=1000))

    assert len(exported) == 62


@pytest.mark.parametrize(
    "choice", [None, "RelevantProvenanceResources", "LatestProvenanceResources"]
)
async def test_among_much_provenance_a_search_finds_that_of_few_patients(ward, choice):
    """B2-P-26, B2-P-27, B2-P-30, TR-56"""
    for number in range(250):
        await ward.store(
            patient(f"x{number}"),
            observation(f"x{number}", f"x{number}"),
            provenance(f"x{number}-a", f"Observation/x{number}", "Observation/obs-b"),
            provenance(f"x{number}-b", f"Patient/x{number}", recorded="2022-01-01T00:00:00Z"),
        )
    for number in range(210):
        await ward.store(observation(f"y{number}", "p4"))
    await ward.store(provenance("y", "Observation/y0", "Observation/y209", "Patient/p4"))
    await ward.store(provenance("z", "Observation/y1", recorded="2019-01-01T00:00:00Z"))
    query = [] if choice is None else [("includeAssociatedData", choice)]

    asked = []
    read_candidates = ward.data_provider.read_candidates

    def counted(view, shard, prefilter, **options):
        asked.append(prefilter)
        return read_candidates(view, shard, prefilter, **options)

    ward.data_provider.read_candidates = counted

    assert provenances(await ward.export(*query, group="g2")) == ["y", "z"]
    assert len(asked) == 2
