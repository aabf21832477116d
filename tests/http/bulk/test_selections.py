"""Filtered and trimmed exports over HTTP, with the requests clients really send."""

import pytest

from helios_core.config.settings import NewlyAdded, Settings


@pytest.fixture
async def ward(site):
    await site.put(
        {"resourceType": "Patient", "id": "p1", "gender": "male", "birthDate": "1970-01-02"},
        {"resourceType": "Patient", "id": "p2", "gender": "female"},
        {"resourceType": "Condition", "id": "c1", "subject": {"reference": "Patient/p1"}},
        medication("active"),
        medication("completed"),
        medication("stopped"),
    )
    return site


def medication(status):
    return {
        "resourceType": "MedicationRequest",
        "id": f"mr-{status}",
        "status": status,
        "intent": "order",
        "medicationCodeableConcept": {"text": "a"},
        "subject": {"reference": "Patient/p1"},
    }


async def exported(site, path, **options):
    manifest = await site.manifest(path, **options)
    found = []
    for file in manifest["output"]:
        lines = (await site.client.get(file["url"])).text.splitlines()
        assert len(lines) == file["count"]
        found += lines
    return found


def ids(lines):
    return sorted(line.split('"id":"')[1].split('"')[0] for line in lines)


@pytest.mark.parametrize(
    "query",
    [
        "_typeFilter=MedicationRequest%3Fstatus%3Dactive,MedicationRequest%3Fstatus%3Dcompleted",
        (
            "_typeFilter=MedicationRequest%3Fstatus%3Dactive"
            "&_typeFilter=MedicationRequest%3Fstatus%3Dcompleted"
        ),
        "_typeFilter=MedicationRequest?status=active%2Ccompleted",
        "_typeFilter=MedicationRequest%3Fstatus%3Dactive%252Ccompleted",
    ],
)
async def test_a_filtered_type_and_an_unfiltered_one(ward, query):
    """B2-P-31, B2-P-34, B3-07, TR-17"""
    lines = await exported(ward, f"/$export?_type=MedicationRequest,Condition&{query}")

    assert ids(lines) == ["c1", "mr-active", "mr-completed"]


async def test_a_posted_filter_and_elements(ward):
    """TR-13, RC-05"""
    body = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "_type", "valueString": "MedicationRequest"},
            {
                "name": "_typeFilter",
                "valueString": "MedicationRequest?status=active,MedicationRequest?status=stopped",
            },
            {"name": "_elements", "valueString": "id,MedicationRequest.subject"},
        ],
    }

    lines = await exported(ward, "/Patient/$export", method="POST", json=body)

    assert ids(lines) == ["mr-active", "mr-stopped"]
    assert all('"SUBSETTED"' in line and '"intent":"order"' in line for line in lines)


async def test_elements_of_a_patient(ward):
    """B2-P-16, RV-45"""
    lines = await exported(ward, "/$export?_type=Patient&_elements=birthDate")

    assert ids(lines) == ["p1", "p2"]
    assert not any("gender" in line for line in lines)
    assert '"birthDate":"1970-01-02"' in "".join(lines)


@pytest.mark.parametrize(
    "query",
    [
        "_typeFilter=Observation%3F_sort%3Ddate",
        "_typeFilter=Patient%3Fnosuch%3D1",
        "_typeFilter=Patient/p1/Observation%3Fcode%3Da",
        "_typeFilter=%3F_id%3D1",
        "_typeFilter=Patient%3Fgender%3D%25ff",
        "_type=Condition&_typeFilter=Patient%3Fgender%3Dmale",
        "_elements=Patient.name.family",
        "_elements=x-y",
        "_elements=",
    ],
)
async def test_what_means_nothing_is_refused_before_there_is_a_job(ward, outcome, query):
    """B2-P-17, B2-P-32, B2-P-33, B3-10"""
    response = await ward.client.get(f"/$export?{query}", headers={"Prefer": "respond-async"})

    issue = outcome(response, 400)
    assert query.partition("=")[0] in issue["diagnostics"] or "_typeFilter" in issue["diagnostics"]


async def test_lenient_handling_reports_one_outcome_per_parameter(ward):
    """B2-MF-20"""
    manifest = await ward.manifest(
        "/$export?_type=Patient,Condition&_elements=id,x.y.z&_typeFilter=Patient%3Fnosuch%3D1",
        headers={"Prefer": "respond-async, handling=lenient"},
    )

    [error] = manifest["error"]
    lines = (await ward.client.get(error["url"])).text.splitlines()
    assert [file["type"] for file in manifest["output"]] == ["Condition"]
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("newly_added", "expected"), [(NewlyAdded.INCLUDE, ["c1", "p1"]), (NewlyAdded.EXCLUDE, [])]
)
async def test_the_operator_decides_about_members_who_joined_later(
    open_site, ward, newly_added, expected
):
    """B2-P-06"""
    site = await open_site(Settings(bulk_export_since_newly_added=newly_added))
    group = {"resourceType": "Group", "id": "g", "actual": True, "member": []}
    await site.put(group)
    since = (await site.manifest("/$export?_type=Group"))["transactionTime"]
    await site.put({**group, "member": [{"entity": {"reference": "Patient/p1"}}]})

    lines = await exported(site, f"/Group/g/$export?_type=Patient,Condition&_since={since}")

    assert ids(lines) == expected
