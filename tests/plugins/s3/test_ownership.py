import re
from datetime import timedelta

import pytest

from helios_core import BackendUnavailable, ConfigurationError, Secret
from helios_core.testing import PART, store_part
from helios_s3 import ownership
from tests.proxies import Fault

RIGHTS = {
    "s3:GetObject": rb"^GET /[^/]+/\.helios-probe",
    "s3:PutObject": rb"^PUT /[^/]+/\.helios-probe",
    "s3:DeleteObject": rb"^DELETE /[^?]*\.helios-probe[^?]* ",
    "s3:ListBucket": rb"^GET /[^/?]+\?list-type=2",
    "s3:AbortMultipartUpload": rb"^DELETE /[^?]*\?uploadId",
    "s3:ListBucketMultipartUploads": rb"^GET /[^/?]+\?uploads",
}


async def test_a_bound_bucket_holds_the_mark_and_nothing_else(opened, keys_in, raw, bucket):
    await opened(prefix="exports").bind("job-store-1")

    assert keys_in() == ["exports/.helios-owner"]
    mark = raw.get_object(Bucket=bucket.name, Key="exports/.helios-owner")
    assert mark["Body"].read() == b"job-store-1\n"


async def test_probes_of_killed_processes_go_once_they_are_old(
    opened, keys_in, raw, bucket, monkeypatch
):
    await opened().bind("job-store-1")
    raw.put_object(Bucket=bucket.name, Key=".helios-probe-1", Body=b"")

    await opened().bind("job-store-1")
    assert ".helios-probe-1" in keys_in()
    monkeypatch.setattr(ownership, "ABANDONED_AFTER", timedelta(seconds=-60))
    await opened().bind("job-store-1")

    assert keys_in() == [".helios-owner"]


async def test_a_bucket_of_another_server_is_refused(opened, bucket):
    await opened().bind("job-store-1")

    with pytest.raises(ConfigurationError, match="belongs to job store job-store-1") as refused:
        await opened().bind("job-store-2")

    assert bucket.name in str(refused.value)
    assert "HFS_BULK_EXPORT_S3_PREFIX" in str(refused.value)


async def test_two_servers_share_a_bucket_under_two_prefixes(opened):
    await opened(prefix="one").bind("job-store-1")
    await opened(prefix="two").bind("job-store-2")


async def test_a_bucket_that_holds_something_else_is_refused(opened, raw, bucket, keys_in):
    raw.put_object(Bucket=bucket.name, Key="holidays/2025/beach.jpg", Body=b"")

    with pytest.raises(ConfigurationError, match="holds folders that no Helios server made"):
        await opened().bind("job-store-1")

    assert keys_in() == ["holidays/2025/beach.jpg"]


async def test_a_bucket_in_use_is_bound_again(opened, store):
    await store.bind("job-store-1")
    await store_part(store, PART, b"content")

    await opened().bind("job-store-1")


async def test_a_bucket_that_does_not_exist_is_refused(opened):
    with pytest.raises(ConfigurationError, match="there is no bucket helios-nowhere") as refused:
        await opened(bucket="helios-nowhere").bind("job-store-1")

    assert "HFS_BULK_EXPORT_S3_BUCKET" in str(refused.value)


@pytest.mark.parametrize("right", RIGHTS)
async def test_a_missing_right_is_refused_and_named(opened, proxy, right):
    await opened().bind("job-store-1")
    proxy.only, proxy.faults = re.compile(RIGHTS[right]), {Fault.ERROR_403: 1.0}

    with pytest.raises(ConfigurationError, match=f"lack the right {right}"):
        await opened(endpoint=proxy.url).bind("job-store-1")


async def test_a_server_that_does_not_answer_is_named_with_its_settings(opened, proxy):
    proxy.close()

    with pytest.raises(BackendUnavailable, match="cannot be reached at http") as refused:
        await opened(endpoint=proxy.url).bind("job-store-1")

    assert "HFS_BULK_EXPORT_S3_ENDPOINT" in str(refused.value)


@pytest.mark.parametrize("wrong", ["access_key_id", "secret_access_key"])
async def test_wrong_credentials_are_refused_without_being_shown(opened, minio_bucket, wrong):
    changes = {wrong: Secret("not-the-right-one"), "bucket": minio_bucket.name}
    store = opened(endpoint=minio_bucket.endpoint, **changes)

    with pytest.raises(ConfigurationError, match="does not accept the credentials") as refused:
        await store.bind("job-store-1")

    assert "not-the-right-one" not in str(refused.value)


async def test_a_server_without_conditional_writes_is_used_all_the_same(opened, proxy, keys_in):
    proxy.only = re.compile(rb"(?is)^PUT [^\r]*helios-owner.*\r\nif-none-match:")
    proxy.faults = {Fault.ERROR_501: 1.0}

    await opened(endpoint=proxy.url).bind("job-store-1")

    assert keys_in() == [".helios-owner"]
    with pytest.raises(ConfigurationError):
        await opened(endpoint=proxy.url).bind("job-store-2")
