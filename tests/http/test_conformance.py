"""Rows of the conformance list that need the data of several patients, before and after T1."""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from helios_core.config.settings import Settings
from helios_core.errors import BackendUnavailable
from helios_core.export.expiry import sweep
from helios_core.fhir.instants import format_instant, parse_instant

LENIENT = {"Prefer": "respond-async, handling=lenient"}


def about(resource_type, resource_id, patient="p1", **more):
    subject = {"reference": f"Patient/{patient}"}
    return {"resourceType": resource_type, "id": resource_id, "subject": subject, **more}


def group(resource_id, *members, **more):
    entries = [{"entity": {"reference": member}} for member in members]
    return {"resourceType": "Group", "id": resource_id, "member": entries, **more}


OLD = [
    *({"resourceType": "Patient", "id": f"p{n}", "gender": "male"} for n in range(1, 7)),
    group("g1", "Patient/p1", "Patient/p2", "Patient/p3", type="person"),
    group("g0"),
    about("Observation", "obs-a1", status="final"),
    about("Observation", "obs-v", status="preliminary"),
    about("Observation", "obs-x", "p4", performer=[{"reference": "Patient/p1"}]),
    about("Condition", "cond1", contained=[{"resourceType": "Patient", "id": "inside"}]),
    about("Condition", "cond-del"),
    about("Condition", "cond-gone"),
    about("Condition", "cond-back"),
    about("Encounter", "enc1", status="finished"),
    about("Encounter", "enc2", "p2", status="planned"),
    about("Encounter", "enc4", "p4", text={"status": "generated", "div": "a\tb\u2028 é 🩺"}),
    {"resourceType": "CodeSystem", "id": "cs1", "status": "active", "content": "complete"},
]
NEW = [
    about("Observation", "obs-a2", status="preliminary"),
    about("Observation", "obs-b", "p2", status="final"),
    about("Observation", "obs-v", status="final"),
    about("Condition", "cond-back"),
]


class Ward:
    """A site with old and new data, and what tests ask of its exports."""

    def __init__(self, site, since):
        self.site = site
        self.client = site.client
        self.since = since

    async def lines(self, manifest, member="output"):
        """Every line of a list of files, held to what the manifest says of its file."""
        found = []
        for file in manifest[member]:
            text = (await self.client.get(file["url"])).content
            lines = [msgspec.json.decode(line) for line in text.split(b"\n")[:-1]]
            assert len(lines) == file["count"] > 0
            assert {line["resourceType"] for line in lines} == {file["type"]}
            found += lines
        return found

    async def export(self, path, **options):
        """What is exported, as Type/id, sorted."""
        manifest = await self.site.manifest(path, **options)
        return names(await self.lines(manifest))


def names(lines):
    return sorted(f"{line['resourceType']}/{line['id']}" for line in lines)


def parameters(*entries):
    return {
        "resourceType": "Parameters",
        "parameter": [{"name": name, **value} for name, value in entries],
    }


@pytest.fixture
async def ward(either_site):
    site = either_site
    await site.put(*OLD)
    await site.delete("Condition", "cond-gone")
    await site.put(about("Observation", "obs-v", status="registered"))
    since = format_instant(await site.backends.data_provider.transaction_time())
    await site.put(*NEW[:3])
    for resource_type, resource_id in [("Condition", "cond-del"), ("Patient", "p6")]:
        await site.delete(resource_type, resource_id)
    await site.delete("Condition", "cond-back")
    await site.put(NEW[3])
    return Ward(site, since)


async def test_the_whole_way_from_kick_off_to_files(ward):
    """
    B2-ROLE-01, B2-ST-01, B2-ST-15, B2-MF-05, B2-MF-08, B2-MF-09, B2-MF-12, TR-40, RC-14, RV-42
    """
    location = await ward.site.kick_off()
    assert (await ward.client.get(location)).status_code == 202
    await ward.site.finish(location)
    manifest = (await ward.client.get(location)).json()

    lines = await ward.lines(manifest)

    assert manifest["requiresAccessToken"] is False
    assert len(names(lines)) == len(set(names(lines)))


async def test_the_system_level_shows_what_is_no_patients(ward):
    """B2-KO-24, B2-P-10"""
    everything = await ward.export("/$export")

    assert {"CodeSystem/cs1", "Group/g0", "Patient/p5", "Encounter/enc4"} <= set(everything)
    assert await ward.export("/$export?_type=CodeSystem") == ["CodeSystem/cs1"]


async def test_a_group_is_the_compartments_of_its_members(ward):
    """B2-KO-08, B2-KO-09, TR-56, RV-51: also what is another patient's subject."""
    exported = await ward.export("/Group/g1/$export")

    assert exported == [
        *("Condition/cond-back", "Condition/cond1", "Encounter/enc1", "Encounter/enc2"),
        "Group/g1",
        *(f"Observation/{name}" for name in ("obs-a1", "obs-a2", "obs-b", "obs-v", "obs-x")),
        *("Patient/p1", "Patient/p2", "Patient/p3"),
    ]


async def test_what_belongs_to_a_named_and_another_patient_is_exported(ward):
    """TR-27, B2-P-22, RV-48"""
    body = parameters(
        ("patient", {"valueReference": {"reference": "Patient/p1"}}),
        ("_type", {"valueString": "Observation,Patient"}),
    )

    exported = await ward.export("/Group/g1/$export", method="POST", json=body)

    assert exported == [
        *("Observation/obs-a1", "Observation/obs-a2", "Observation/obs-v", "Observation/obs-x"),
        "Patient/p1",
    ]


async def test_since_shows_what_is_new_without_its_patient(ward):
    """B2-P-05, TR-22: the patient has not changed."""
    exported = await ward.export(f"/Patient/$export?_since={ward.since}")

    assert exported == [
        "Condition/cond-back",
        *("Observation/obs-a2", "Observation/obs-b", "Observation/obs-v"),
    ]


@pytest.mark.parametrize("parameter", ["_since", "_until"])
async def test_both_bounds_are_exclusive(ward, parameter):
    """B2-P-05, B3-05, TR-21, RV-47: to the microsecond, and in any zone."""
    path = "/$export?_type=Observation&_typeFilter=Observation%3F_id%3Dobs-a2"
    [line] = await ward.lines(await ward.site.manifest(path))
    stamp = line["meta"]["lastUpdated"]

    assert await ward.export(f"{path}&{parameter}={stamp}") == []


async def test_until_shows_what_last_changed_before(ward):
    """B3-05"""
    path = f"/$export?_type=Observation&_until={ward.since}"

    exported = await ward.export(path)

    assert exported == ["Observation/obs-a1", "Observation/obs-x"]


async def test_deletions_since_keep_to_the_level_and_its_types(ward):
    """B2-MF-13, B2-MF-14, B2-MF-15, TR-57, TR-58, TR-59"""

    async def deleted(query):
        manifest = await ward.site.manifest(f"/Patient/$export{query}")
        bundles = await ward.lines(manifest, "deleted")
        return sorted(entry["request"]["url"] for each in bundles for entry in each["entry"])

    assert await deleted(f"?_since={ward.since}") == ["Condition/cond-del", "Patient/p6"]
    assert await deleted(f"?_since={ward.since}&_type=Patient") == ["Patient/p6"]
    assert await deleted("") == []


async def test_leaving_a_group_is_no_deletion(ward):
    """TR-59"""
    await ward.site.put(group("g1", "Patient/p1"))

    manifest = await ward.site.manifest(f"/Group/g1/$export?_since={ward.since}&_type=Patient")

    assert manifest["deleted"] == []


async def test_only_the_current_version_is_exported(ward):
    """B2-FL-05, B2-FL-06, TR-57"""
    path = "/$export?_typeFilter=Observation%3F_id%3Dobs-v&_type=Observation"

    [line] = await ward.lines(await ward.site.manifest(path))

    assert (line["status"], line["meta"]["versionId"]) == ("final", "3")


async def test_references_and_contained_resources_are_left_as_they_are(ward):
    """B2-KO-13, TR-60"""
    path = "/$export?_typeFilter=Condition%3F_id%3Dcond1&_type=Condition"

    [line] = await ward.lines(await ward.site.manifest(path))

    assert line["subject"] == {"reference": "Patient/p1"}
    assert line["contained"] == [{"resourceType": "Patient", "id": "inside"}]


async def test_a_line_is_one_line_of_utf_8_whatever_is_in_it(ward):
    """TR-50, TR-51"""
    manifest = await ward.site.manifest("/$export?_type=Encounter")

    data = (await ward.client.get(manifest["output"][0]["url"])).content

    lines = data.split(b"\n")
    assert lines.pop() == b""
    assert not {"\r", "\t"} & set(data.decode())
    assert [line for line in lines if line.startswith(b'{"resourceType":"Encounter"')] == lines
    assert "a\tb\u2028 é 🩺" in [msgspec.json.decode(x).get("text", {}).get("div") for x in lines]


async def test_filters_of_two_types_do_not_touch_each_other(ward):
    """TR-18, B3-08: nor types without a filter."""
    filters = "_typeFilter=Patient%3Fgender%3Dfemale&_typeFilter=Encounter%3Fstatus%3Dplanned"

    exported = await ward.export(f"/$export?_type=Patient,Encounter,CodeSystem&{filters}")
    patients = await ward.export("/$export?_type=Patient,Encounter&_typeFilter=Patient%3F_id%3Dp1")

    assert exported == ["CodeSystem/cs1", "Encounter/enc2"]
    assert patients == ["Encounter/enc1", "Encounter/enc2", "Encounter/enc4", "Patient/p1"]


@pytest.mark.parametrize(
    "entries",
    [
        [("_type", {"valueString": "Patient"}), ("_type", {"valueString": "CodeSystem"})],
        [("_type", {"valueString": "Patient,CodeSystem"})],
        [("_type", {"valueCode": "Patient"}), ("_type", {"valueString": "CodeSystem,Patient"})],
    ],
)
async def test_a_post_means_what_its_get_twin_means(ward, entries):
    """B2-KO-03, B2-KO-04, TR-14"""
    posted = await ward.export("/$export", method="POST", json=parameters(*entries))

    assert posted == await ward.export("/$export?_type=Patient,CodeSystem")


@pytest.mark.parametrize(
    "spelling", [None, "application/fhir%2Bndjson", "application/ndjson", "ndjson"]
)
async def test_files_are_fhir_ndjson_however_it_was_asked_for(ward, spelling):
    """B2-P-01, B2-P-02, B2-P-03, B2-FL-02, TR-23"""
    query = f"&_outputFormat={spelling}" if spelling else ""
    manifest = await ward.site.manifest(f"/$export?_type=Patient{query}")

    response = await ward.client.get(manifest["output"][0]["url"])

    assert response.headers["content-type"] == "application/fhir+ndjson"


async def test_a_posted_format_may_be_spelt_in_three_ways(ward):
    """RV-11"""
    for spelling in ("application/fhir+ndjson", "application/ndjson", "ndjson"):
        body = parameters(("_outputFormat", {"valueString": spelling}))
        await ward.site.kick_off("/Patient/$export", method="POST", json=body)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/Group/none/$export", None, 404),
        ("/Patient/$export?patient=p1", None, 400),
        ("/$export?_since=yesterday", None, 400),
        ("/$export", b"{", 400),
        ("/$export", b"", 400),
    ],
)
async def test_lenient_excuses_nothing_but_what_can_be_left_out(
    client, outcome, path, body, status
):
    """TR-11, B2-KO-20, B2-KO-21"""
    method = "GET" if body is None else "POST"
    headers = LENIENT | {"Content-Type": "application/json"}

    outcome(await client.request(method, path, headers=headers, content=body), status)


async def test_types_nobody_knows_are_reported_under_lenient(ward):
    """B2-P-14, TR-64"""
    manifest = await ward.site.manifest("/$export?_type=Patient,NotAType", headers=LENIENT)

    [error] = await ward.lines(manifest, "error")

    assert "NotAType" in error["issue"][0]["diagnostics"]
    assert names(await ward.lines(manifest)) == [f"Patient/p{n}" for n in range(1, 6)]


async def test_a_resource_that_cannot_be_read_does_not_fail_the_rest(site):
    """TR-64, B2-ST-11, RV-37"""
    ward = Ward(site, "")
    await site.put(*OLD)
    provider = site.backends.data_provider
    versions = next(
        stored["p2"]
        for key, stored in provider._collections.items()
        if key.resource_type == "Patient"
    )
    stored = msgspec.structs.replace(versions[-1].stored, content=b"{")
    versions[-1] = msgspec.structs.replace(versions[-1], stored=stored)

    manifest = await ward.site.manifest("/$export?_type=Patient")

    assert len(await ward.lines(manifest, "error")) == 1
    assert "Patient/p2" not in names(await ward.lines(manifest))


async def test_the_status_stays_the_same_however_often_it_is_read(ward):
    """B3-27, TR-35, TR-53: so do the files."""
    location = await ward.site.kick_off("/$export?_type=Patient")
    await ward.site.finish(location)

    first, second = [await ward.client.get(location) for _ in range(2)]
    url = first.json()["output"][0]["url"]
    files = [await ward.client.get(url) for _ in range(2)]

    assert first.content == second.content
    assert first.headers["expires"] == second.headers["expires"]
    assert files[0].content == files[1].content
    assert files[0].headers["etag"] == files[1].headers["etag"]


async def test_the_extension_is_an_object(ward):
    """B2-MF-21, TR-44"""
    manifest = await ward.site.manifest()

    assert isinstance(manifest["extension"], dict)


async def test_a_chain_of_exports_meets_at_the_transaction_time(ward):
    """B2-MF-01, B2-MF-02, TR-43"""
    first = await ward.site.manifest("/$export?_type=Patient")
    await ward.site.put({"resourceType": "Patient", "id": "p7"})
    at = first["transactionTime"]

    second = await ward.export(f"/$export?_type=Patient&_since={at}")

    assert second == ["Patient/p7"]
    stamps = [line["meta"]["lastUpdated"] for line in await ward.lines(first)]
    assert max(parse_instant(stamp) for stamp in stamps) <= parse_instant(at)


async def test_a_poll_that_fails_says_nothing_about_the_export(ward, outcome):
    """B2-ST-10, RC-07"""
    location = await ward.site.kick_off()
    jobs = ward.site.backends.job_store
    working = jobs.get

    async def broken(*_args):
        raise BackendUnavailable("The database is away.")

    jobs.get = broken
    failed = await ward.client.get(location)
    jobs.get = working

    outcome(failed, 503, "transient")
    assert int(failed.headers["retry-after"]) > 0
    assert (await ward.client.get(location)).status_code == 202


@pytest.mark.parametrize(
    ("request_line", "options", "status"),
    [
        ("GET /$export?_since=x", {}, 400),
        ("GET /$export", {"headers": {"Prefer": "handling=lenient"}}, 400),
        ("GET /Group/none/$export", {}, 404),
        ("PUT /$export", {}, 405),
        ("GET /$export", {"headers": {"Accept": "text/html"}}, 406),
        ("POST /$export", {"content": b"{" + b" " * 2000}, 413),
        ("POST /$export", {"data": {"_type": "Patient"}}, 415),
    ],
)
async def test_every_refusal_is_an_outcome(open_site, outcome, request_line, options, status):
    """B2-KO-20, B2-KO-21, B2-ST-08"""
    site = await open_site(Settings(max_body_bytes=1000))
    method, path = request_line.split()
    headers = {"Prefer": "respond-async"} | options.get("headers", {})
    if "content" in options:
        headers["Content-Type"] = "application/json"

    response = await site.client.request(method, path, **(options | {"headers": headers}))

    outcome(response, status)


async def test_a_defect_at_the_kick_off_is_an_outcome(site, outcome):
    """B2-KO-20, B2-KO-21"""

    async def broken():
        raise ZeroDivisionError

    site.backends.data_provider.transaction_time = broken

    outcome(await site.client.get("/$export", headers={"Prefer": "respond-async"}), 500)


async def test_what_has_expired_is_not_found(ward, outcome):
    """B2-ST-14, B2-FL-07, RV-44"""
    location = await ward.site.kick_off("/$export?_type=Patient")
    await ward.site.finish(location)
    manifest = (await ward.client.get(location)).json()

    await asyncio.sleep(0.01)
    assert await sweep(ward.site.backends, output_ttl=timedelta(0)) == 1

    outcome(await ward.client.get(location), 404, "not-found")
    outcome(await ward.client.get(manifest["output"][0]["url"]), 404, "not-found")


async def test_the_first_polls_are_never_refused_for_coming_soon(ward):
    """TR-32"""
    location = await ward.site.kick_off()

    assert {(await ward.client.get(location)).status_code for _ in range(20)} == {202}


@pytest.mark.parametrize("accept", ["application/json", "application/fhir+json", "*/*"])
async def test_every_route_takes_the_accept_of_the_others(ward, accept):
    """TR-05, B2-FL-04"""
    headers = {"Accept": accept}
    location = await ward.site.kick_off("/$export?_type=Patient", headers=headers)
    await ward.site.finish(location)

    status = await ward.client.get(location, headers=headers)
    file = await ward.client.get(status.json()["output"][0]["url"], headers=headers)
    ended = await ward.client.delete(location, headers=headers)

    assert [status.status_code, file.status_code, ended.status_code] == [200, 200, 202]
    assert file.headers["content-type"] == "application/fhir+ndjson"


@pytest.mark.parametrize("token", ["Bearer ", "Bearer", "Bearer not.a.token", "Basic eDp5"])
async def test_credentials_nobody_asked_for_do_no_harm(ward, token):
    """TR-07, B3-29, RV-21"""
    headers = {"Authorization": token}
    location = await ward.site.kick_off("/$export?_type=Patient", headers=headers)
    await ward.site.finish(location)

    status = await ward.client.get(location, headers=headers)
    file = await ward.client.get(status.json()["output"][0]["url"], headers=headers)

    assert [status.status_code, file.status_code] == [200, 200]
