from datetime import timedelta

import pytest

from helios_core.client.verification import Verdict, verify
from helios_core.config.settings import Settings
from helios_core.fhir.bulk_data import GuideVersion
from helios_core.model.parts import Compression

KEY = "urn:helios:completeness"


async def downloaded(site, response, folder):
    """Save everything a manifest names, as any client would."""
    folder.mkdir(exist_ok=True)
    manifest = response.json()
    for name in ("output", "deleted", "error", "outcome"):
        for file in manifest.get(name, []):
            content = (await site.client.get(file["url"])).content
            (folder / file["url"].rsplit("/", 1)[1]).write_bytes(content)
    return manifest


async def exported(site, query="", *, headers=None, method="GET", **limits):
    options = {"headers": headers or {}, "method": method}
    if method == "POST":
        options["json"] = {"resourceType": "Parameters"}
    location = await site.kick_off(f"/$export?{query}", **options)
    await site.finish(location, **limits)
    return await site.client.get(location)


async def fill(site):
    """Two exports' worth of data, of which something was deleted, and a parameter to ignore."""
    await site.put(
        *({"resourceType": "Patient", "id": f"p{n}"} for n in range(7)),
        *({"resourceType": "Device", "id": f"d{n}"} for n in range(3)),
        {"resourceType": "Bundle", "id": "b", "type": "collection"},
    )
    since = (await exported(site)).json()["transactionTime"]
    await site.put(
        *({"resourceType": "Patient", "id": f"p{n}", "active": True} for n in range(7)),
        {"resourceType": "Bundle", "id": "b", "type": "document"},
    )
    await site.delete("Device", "d1")
    return f"_since={since}&bogus=1"


LENIENT = {"Prefer": "respond-async, handling=lenient"}


@pytest.mark.parametrize("compression", Compression)
async def test_the_manifest_proves_what_was_exported(site, tmp_path, compression):
    query = await fill(site)

    response = await exported(site, query, headers=LENIENT, part_rows=2, compression=compression)

    manifest = await downloaded(site, response, tmp_path)
    report = verify(response.content, tmp_path)
    assert report.ok
    assert {(each.kind, each.type): each.tally.count for each in report.findings} == {
        ("output", "Bundle"): 1,
        ("output", "Patient"): 7,
        ("deleted", "Bundle"): 1,
        ("error", "OperationOutcome"): 1,
    }
    assert isinstance(manifest["extension"], dict)
    assert manifest["extension"][KEY]["output"]["Patient"]["count"] == 7


async def test_the_draft_of_version_4_has_its_own_manifest(open_site, tmp_path):
    """B4-05, B4-06, TR-44: outcome for error, no request, extensions as a list, file sizes."""
    site = await open_site(Settings(bulk_data_ig=GuideVersion.DRAFT_4))
    await site.put({"resourceType": "Patient", "id": "p1"})

    response = await exported(site, "bogus=1", headers=LENIENT, method="POST")

    manifest = await downloaded(site, response, tmp_path)
    assert manifest.keys() == {
        *("manifestType", "transactionTime", "requiresAccessToken", "outputFormat"),
        *("output", "deleted", "outcome", "extension"),
    }
    assert manifest["outputFormat"] == "application/fhir+ndjson"
    assert manifest["manifestType"].endswith("/StructureDefinition/BulkDataManifest")
    [output], [outcome] = manifest["output"], manifest["outcome"]
    content = (tmp_path / "Patient-1-1.ndjson").read_bytes()
    assert output.keys() == {"type", "url", "count", "fileSize"}
    assert output["fileSize"] == len(content)
    assert outcome.keys() == {"url", "count", "fileSize"}
    assert [each["url"] for each in manifest["extension"]] == [KEY, KEY]
    assert verify(response.content, tmp_path).ok
    (tmp_path / "Patient-1-1.ndjson").write_bytes(content.replace(b"p1", b"p2"))
    assert not verify(response.content, tmp_path).ok


@pytest.mark.parametrize("guide", GuideVersion)
async def test_every_page_of_a_partial_manifest_proves_itself(open_site, tmp_path, guide):
    site = await open_site(Settings(bulk_data_ig=guide))
    await site.put(*({"resourceType": "Patient", "id": f"p{n}"} for n in range(13)))

    first = await exported(site, "allowPartialManifests=true", method="POST", part_rows=1)
    second = await site.client.get(first.json()["link"][0]["url"])

    reports = []
    for page in (first, second):
        await downloaded(site, page, tmp_path)
        reports.append(verify(page.content, tmp_path))
    assert [report.continued for report in reports] == [True, False]
    assert all(report.ok for report in reports)
    assert [report.findings[0].tally.count for report in reports] == [10, 3]
    (tmp_path / second.json()["output"][0]["url"].rsplit("/", 1)[1]).unlink()
    assert verify(second.content, tmp_path).findings[0].verdict is Verdict.MISSING


async def test_organized_output_is_proven_under_its_type(site, tmp_path):
    """B3-18, B3-19, TR-46: headers count in the digest, not among the resources."""
    await site.put(
        *({"resourceType": "Patient", "id": f"p{n}"} for n in range(3)),
        *(
            {"resourceType": "Observation", "id": f"o{n}", "subject": {"reference": "Patient/p0"}}
            for n in range(4)
        ),
    )

    location = await site.kick_off("/Patient/$export?organizeOutputBy=Patient")
    await site.finish(location, part_bytes=500)
    response = await site.client.get(location)

    manifest = await downloaded(site, response, tmp_path)
    assert manifest["outputOrganizedBy"] == "Patient"
    assert len(manifest["output"]) > 1
    assert all("type" not in file for file in manifest["output"])
    [finding] = verify(response.content, tmp_path).findings
    assert (finding.type, finding.tally.count, finding.verdict) == ("Patient", 7, Verdict.OK)


async def test_parts_from_before_there_were_proofs_make_none(site):
    await site.put({"resourceType": "Patient", "id": "p1"})
    location = await site.kick_off()
    await site.finish(location)
    [entry] = site.backends.job_store._entries.values()
    for work in entry.work:
        work.parts = [type(part)(**_fields(part) | {"digest_sum": None}) for part in work.parts]

    assert "extension" not in (await site.client.get(location)).json()


def _fields(part):
    return {name: getattr(part, name) for name in part.__struct_fields__}


async def test_the_draft_of_version_4_takes_no_get(open_site, outcome):
    """B4-01"""
    site = await open_site(Settings(bulk_data_ig=GuideVersion.DRAFT_4))
    headers = {"Prefer": "respond-async"}

    for path in ("/$export", "/Patient/$export", "/Group/g1/$export"):
        refused = await site.client.get(path, headers=headers)
        outcome(refused, 405, "not-supported")
        assert "POST" in refused.headers["allow"]
    posted = await site.client.post(
        "/$export", headers=headers, json={"resourceType": "Parameters"}
    )
    assert posted.status_code == 202
    assert await site.backends.job_store.claim("w", lease_for=timedelta(1), max_attempts=1) is None


@pytest.mark.parametrize(
    ("guide", "pin"), [(GuideVersion.CURRENT, ""), (GuideVersion.DRAFT_4, "|4.0.0")]
)
async def test_the_operations_are_those_of_the_guide_spoken(open_site, guide, pin):
    """B4-01"""
    site = await open_site(Settings(bulk_data_ig=guide))

    statement = (await site.client.get("/metadata")).json()

    [export] = statement["rest"][0]["operation"]
    base = "http://hl7.org/fhir/uv/bulkdata"
    assert export["definition"] == f"{base}/OperationDefinition/export{pin}"
    assert statement["instantiates"] == [f"{base}/CapabilityStatement/bulk-data{pin}"]


async def test_files_are_no_larger_than_the_client_wants(open_site, tmp_path):
    """B4-08: unless a single resource is."""
    site = await open_site(Settings(bulk_data_ig=GuideVersion.DRAFT_4))
    large = {"resourceType": "Patient", "id": "large", "name": [{"text": "x" * 2000}]}
    await site.put(large, *({"resourceType": "Patient", "id": f"p{n}"} for n in range(30)))

    response = await exported(site, "_maximumFileSize=1000", method="POST")

    manifest = await downloaded(site, response, tmp_path)
    assert len(manifest["output"]) > 3
    for file in manifest["output"]:
        assert file["fileSize"] <= 1000 or file["count"] == 1
    assert verify(response.content, tmp_path).ok
