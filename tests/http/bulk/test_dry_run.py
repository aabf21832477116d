from datetime import timedelta

import msgspec
import pytest

from helios_core.config.settings import Settings
from helios_core.model.jobs import JobStatus
from tests.storage.transforming import applying

ASYNC = {"Prefer": "respond-async"}
DURATION = {"unit": "s", "system": "http://unitsofmeasure.org", "code": "s"}
LEASE = timedelta(seconds=1)


@pytest.fixture
async def group(site):
    await site.put(*hospital())


def hospital():
    return [
        {"resourceType": "Patient", "id": "p1"},
        {"resourceType": "Patient", "id": "p2"},
        {"resourceType": "Observation", "id": "o1", "subject": {"reference": "Patient/p1"}},
        {"resourceType": "Group", "id": "g1", "member": [{"entity": {"reference": "Patient/p1"}}]},
    ]


async def estimated(site, path="/$export?_dryRun=true", **options):
    method = options.pop("method", "GET")
    response = await site.client.request(method, path, headers=ASYNC, **options)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/fhir+json")
    body = response.json()
    assert body["resourceType"] == "Parameters"
    return body["parameter"]


def values(parameters, name):
    return [
        next((value for key, value in each.items() if key.startswith("value")), None)
        for each in parameters
        if each["name"] == name
    ]


def types(parameters):
    parts = [each["part"] for each in parameters if each["name"] == "type"]
    return {values(part, "type")[0]: values(part, "resources")[0] for part in parts}


async def nothing_started(site):
    return await site.backends.job_store.claim("w", lease_for=LEASE, max_attempts=3) is None


async def test_a_dry_run_estimates_how_much_there_is_and_starts_nothing(site, group):
    parameters = await estimated(site)

    assert values(parameters, "accepted") == [True]
    assert types(parameters) == {"Group": 1, "Observation": 1, "Patient": 2}
    assert values(parameters, "resources") == [4]
    assert values(parameters, "bytes")[0] > 200
    assert values(parameters, "files") == [3]
    assert values(parameters, "expectedDuration") == []
    assert await nothing_started(site)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/Patient/$export", {"Group": 1, "Observation": 1, "Patient": 2}),
        ("/Group/g1/$export", {"Group": 1, "Observation": 1, "Patient": 1}),
    ],
)
async def test_every_level_can_be_tried_by_post(site, group, path, expected):
    body = {
        "resourceType": "Parameters",
        "parameter": [{"name": "_dryRun", "valueBoolean": True}],
    }

    assert types(await estimated(site, path, method="POST", json=body)) == expected


async def test_as_many_files_are_announced_as_there_will_be(open_site):
    """RV-34"""
    site = await open_site(Settings(bulk_export_part_rows=2))
    await site.put(*({"resourceType": "Patient", "id": f"p{n}"} for n in range(5)))

    announced = values(await estimated(site), "files")

    manifest = await site.manifest(limits={"part_rows": 2})
    assert announced == [len(manifest["output"])] == [3]
    assert sorted(each["count"] for each in manifest["output"]) == [1, 2, 2]


async def test_everything_that_would_be_refused_is_reported_at_once(site, outcome):
    query = "_dryRun=true&_type=Nonsense&_since=yesterday&bogus=1"

    parameters = await estimated(site, f"/$export?{query}")

    refused = " ".join(values(parameters, "refused"))
    assert values(parameters, "accepted") == [False]
    assert all(word in refused for word in ("Nonsense", "_since", "bogus"))
    assert {each["name"] for each in parameters} == {"accepted", "refused"}
    outcome(await site.client.get(f"/$export?{query[13:]}", headers=ASYNC), 400)


async def test_what_would_be_refused_of_a_body_is_reported_too(site):
    body = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "_dryRun", "valueBoolean": True},
            {"name": "_since", "valueInstant": "yesterday"},
            {"name": "patient", "valueString": "Patient/none"},
        ],
    }

    parameters = await estimated(site, "/$export", method="POST", json=body)

    refused = values(parameters, "refused")
    assert [reason.split(" ")[0].strip(":") for reason in refused] == ["_since", "patient"]


async def test_patients_who_are_not_there_are_reported(site):
    body = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "_dryRun", "valueBoolean": True},
            {"name": "patient", "valueString": "Patient/none"},
        ],
    }

    parameters = await estimated(site, "/Patient/$export", method="POST", json=body)

    [reason] = values(parameters, "refused")
    assert "no Patient stored" in reason


async def test_what_would_be_ignored_is_reported(site, group):
    headers = {"Prefer": "respond-async, handling=lenient"}

    response = await site.client.get("/$export?_dryRun=true&bogus=1", headers=headers)

    parameters = response.json()["parameter"]
    [ignored] = values(parameters, "ignored")
    assert "bogus" in ignored
    assert values(parameters, "accepted") == [True]
    assert values(parameters, "files") == [4]


@pytest.mark.parametrize("prefer", ["", "handling=never"])
async def test_a_header_that_would_be_refused_is_reported(site, prefer):
    response = await site.client.get("/$export?_dryRun=true&bogus=1", headers={"Prefer": prefer})

    reasons = values(response.json()["parameter"], "refused")
    assert "Prefer" in reasons[0]
    assert len(reasons) == (2 if prefer == "" else 1)


async def test_a_dry_run_works_when_no_export_would_be_accepted(open_site):
    site = await open_site(Settings(bulk_export_max_concurrent_per_tenant=1))
    await site.put(*hospital())
    await site.kick_off()

    assert values(await estimated(site), "accepted") == [True]
    assert (await site.client.get("/$export", headers=ASYNC)).status_code == 429


async def test_the_expected_duration_follows_the_latest_exports(site, group):
    for _ in range(2):
        await site.finish(await site.kick_off())
    for entry in site.backends.job_store._entries.values():
        assert entry.job.status is JobStatus.COMPLETE
        started = entry.job.completed_at - timedelta(seconds=8)
        entry.job = msgspec.structs.replace(entry.job, created_at=started)

    [whole] = values(await estimated(site), "expectedDuration")
    [half] = values(
        await estimated(site, "/$export?_dryRun=true&_type=Patient"), "expectedDuration"
    )

    assert whole == {"value": 8, **DURATION}
    assert half == {"value": 4, **DURATION}


async def test_an_estimate_says_that_filters_are_not_counted_in(site, group):
    path = "/$export?_dryRun=true&_typeFilter=Patient%3Factive%3Dtrue&_elements=id"

    narrowed, whole = await estimated(site, path), await estimated(site)

    filters, elements = values(narrowed, "remark")
    assert filters.startswith("_typeFilter is not taken into account: of Patient")
    assert elements.startswith("_elements is not taken into account")
    assert types(narrowed) == types(whole)
    assert values(whole, "remark") == []


async def test_an_answer_says_that_transforms_are_not_counted_in(open_site):
    site = await open_site(transforms=applying(lambda resource: resource))
    await site.put(*hospital())

    [remark] = values(await estimated(site), "remark")

    assert remark.startswith("What plugins change and leave out is not taken into account")


async def test_a_missing_group_is_not_found_as_at_the_kick_off(site, outcome):
    outcome(await site.client.get("/Group/none/$export?_dryRun=true", headers=ASYNC), 404)


async def test_a_dry_run_that_says_no_is_an_export(site, group):
    response = await site.client.get("/$export?_dryRun=false", headers=ASYNC)

    assert response.status_code == 202
    assert not await nothing_started(site)


async def test_a_dry_run_nobody_understands_starts_nothing(site, group, outcome):
    outcome(await site.client.get("/$export?_dryRun=perhaps", headers=ASYNC), 400, "value")

    assert await nothing_started(site)
