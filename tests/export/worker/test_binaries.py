"""Export of attachments and of the Binary resources they link to."""

import pytest

from helios_core.fhir.instants import format_instant
from helios_core.model.exports import Level
from helios_core.model.parts import PartKind
from tests.export.worker.fixture import binary, document, filled


@pytest.fixture
async def ward(clinic):
    clinic.between = await filled(clinic)
    return clinic


def binaries(exported: list[str]) -> list[str]:
    return [name for name in exported if name.startswith("Binary/")]


async def resource(hospital, resource_id, *query, level=Level.PATIENT) -> dict:
    job = await hospital.work(await hospital.kick_off(*query, level=level))
    [found] = [line for line in await hospital.lines(job) if line["id"] == resource_id]
    return found


@pytest.mark.parametrize("level", [Level.SYSTEM, Level.PATIENT])
async def test_the_url_of_an_attachment_is_exported_absolute(ward, level):
    """B2-FL-08, B2-FL-09, B3-31, TR-61"""
    found = await resource(ward, "doc1", level=level)

    [content] = found["content"]
    assert content["attachment"]["url"] == "http://localhost/Binary/bin1"


async def test_an_attachment_within_the_resource_stays_as_it_is(ward):
    """B2-FL-08"""
    found = await resource(ward, "doc2")

    assert "url" not in found["content"][0]["attachment"]
    assert found["content"][0]["attachment"]["data"]


async def test_the_attachments_of_other_types_are_exported_absolute_too(ward):
    """B2-FL-09"""
    await ward.store(
        {"resourceType": "Patient", "id": "p1", "photo": [{"url": "Binary/bin1"}]},
    )

    assert (await resource(ward, "p1"))["photo"] == [{"url": "http://localhost/Binary/bin1"}]


async def test_text_that_looks_like_a_url_stays_as_it_is(ward):
    """TR-52"""
    text = '"url":"Binary/bin1"'
    await ward.store(document("doc3", "p1", url="Binary/bin1", title=text))

    [content] = (await resource(ward, "doc3"))["content"]

    assert content["attachment"]["title"] == text


async def test_the_entries_of_a_bundle_stay_as_they_are(ward):
    entry = {"request": {"method": "GET", "url": "Binary/bin1"}}
    bundle = {"resourceType": "Bundle", "id": "b", "type": "transaction", "entry": [entry]}
    await ward.store(bundle)

    assert (await resource(ward, "b", level=Level.SYSTEM))["entry"] == [entry]


@pytest.mark.parametrize("level", [Level.SYSTEM, Level.PATIENT])
async def test_a_binary_of_a_patient_is_never_exported(ward, level):
    """B2-KO-11, TR-61"""
    assert "Binary/bin1" not in await ward.export(level=level)


async def test_another_binary_is_exported_at_system_level_only(ward):
    """B2-KO-12"""
    assert binaries(await ward.export()) == ["Binary/bin9"]
    assert binaries(await ward.export(level=Level.PATIENT)) == []


@pytest.mark.parametrize(
    "url",
    ["http://localhost/Binary/bin9", "Binary/bin9/_history/1"],
)
async def test_it_belongs_to_a_patient_however_the_link_is_written(ward, url):
    """B2-KO-11"""
    await ward.store(document("doc3", "p1", url=url))

    assert binaries(await ward.export()) == []


@pytest.mark.parametrize(
    "query",
    [
        [("_type", "Binary")],
        [("_type", "Binary,DocumentReference"), ("_typeFilter", "DocumentReference?_id=none")],
        [("_type", "Binary,DocumentReference"), ("_elements", "status")],
    ],
)
async def test_it_belongs_to_a_patient_whatever_else_is_exported(ward, query):
    """B2-KO-11"""
    assert binaries(await ward.export(*query)) == ["Binary/bin9"]


async def test_it_belongs_to_a_patient_though_it_changed_after_what_links_to_it(ward):
    """B2-KO-11"""
    await ward.store(binary("bin1", contentType="text/html"))

    assert binaries(await ward.export(("_since", format_instant(ward.between)))) == []


@pytest.mark.parametrize(
    ("context", "leaves"),
    [
        ("Patient/p1", False),
        ("Encounter/enc1", False),
        ("Patient/p6", False),
        ("Organization/org1", True),
        ("Observation/of-nobody", True),
    ],
)
async def test_the_security_context_decides_whether_it_belongs_to_a_patient(ward, context, leaves):
    """B2-KO-11"""
    await ward.store(
        {"resourceType": "Observation", "id": "of-nobody", "status": "final"},
        binary("bin2", securityContext={"reference": context}),
    )

    assert ("Binary/bin2" in await ward.export()) is leaves


async def test_one_of_a_patient_that_no_attachment_links_to_is_reported(ward):
    await ward.store(binary("bin2", securityContext={"reference": "Patient/p1"}))

    job = await ward.work(await ward.kick_off())

    [outcome] = await ward.lines(job, PartKind.ERROR)
    assert "Binary/bin2" in outcome["issue"][0]["diagnostics"]


async def test_one_that_a_resource_of_no_patient_links_to_is_exported(ward):
    """B2-KO-12"""
    await ward.store(
        {"resourceType": "Practitioner", "id": "prac1", "photo": [{"url": "Binary/bin9"}]}
    )

    assert "Binary/bin9" in await ward.export()
