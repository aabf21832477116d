"""A server whose resources and whose output are in buckets of two S3 servers."""

import httpx
import msgspec
import pytest

from tests.processes import Site, names

PATIENTS = [f"Patient/p{number}" for number in range(5)]
OUTPUT_KEY = "output-key"


@pytest.fixture
def site(tmp_path, bucket, minio_bucket):
    """MinIO has the resources and refuses other keys than its own; the output is elsewhere."""
    output = bucket.settings | {
        "HFS_BULK_EXPORT_S3_ACCESS_KEY_ID": OUTPUT_KEY,
        "HFS_BULK_EXPORT_S3_SECRET_ACCESS_KEY": "output-secret",
    }
    site = Site(
        tmp_path,
        HFS_STORAGE_BACKEND="s3",
        AWS_EC2_METADATA_DISABLED="true",
        **minio_bucket.resource_settings,
        **output,
    )
    file = tmp_path / "patients.ndjson"
    file.write_text("".join(f'{{"resourceType":"Patient","id":"{n[8:]}"}}\n' for n in PATIENTS))
    site.run("load", str(file))
    yield site
    site.end()


def folders(bucket):
    found = bucket.client().list_objects_v2(Bucket=bucket.name).get("Contents", ())
    return {each["Key"].split("/")[0] for each in found}


def test_resources_and_output_have_servers_and_credentials_of_their_own(
    site, bucket, minio_bucket
):
    _, client = site.serve()

    manifest = client.manifest(client.kick_off())

    [file] = manifest["output"]
    lines = httpx.get(file["url"], timeout=60).text.splitlines()
    assert file["url"].startswith(bucket.endpoint)
    assert f"X-Amz-Credential={OUTPUT_KEY}" in file["url"]
    assert sorted(PATIENTS) == sorted(names(map(msgspec.json.decode, lines)))
    assert folders(minio_bucket) == {".helios-resources", "log"}
    assert folders(bucket) == {".helios-owner", "default"}
