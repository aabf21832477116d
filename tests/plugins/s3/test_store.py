import gzip
import subprocess
import sys

import msgspec
import pytest

from helios_core import BackendUnavailable, Compression, PartMissing
from helios_core.testing import MIB, PART, list_jobs, read_part, store_part, yield_chunks
from helios_s3.settings import Encryption

OPEN = """
import asyncio, resource, sys
from helios_core.testing import PART
from helios_core import Secret
from helios_s3 import S3Settings, helios_output_store

bucket, endpoint, key, secret = sys.argv[1:]
settings = S3Settings(
    bucket=bucket, endpoint=endpoint, allow_http=True, force_path_style=True, region="us-east-1",
    access_key_id=Secret(key), secret_access_key=Secret(secret), block_bytes=5 * 1024 * 1024,
)
opening = helios_output_store().open(settings)
"""
PUT_FOREVER = """
async def chunks():
    for _ in range(12):
        yield b"a" * 1_500_000
    print("sent", flush=True)
    await asyncio.sleep(600)

async def main():
    async with opening as store:
        await store.put(PART, chunks())

asyncio.run(main())
"""
PUT_AND_READ = """
BLOCK = bytes(range(256)) * 4096

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

async def chunks(count):
    for number in range(count):
        yield BLOCK[number % 100 :]

async def both(store, count):
    part = await store.put(PART, chunks(count))
    read = 0
    async for chunk in store.read(PART):
        read += len(chunk)
    assert read == part.size

async def main():
    async with opening as store:
        await both(store, 16)
        before = peak()
        await both(store, 400)
        print(peak() - before)

asyncio.run(main())
"""
GZIPPED = msgspec.structs.replace(PART, compression=Compression.GZIP)


def head(raw, bucket, key):
    return raw.head_object(Bucket=bucket.name, Key=key)


def python(script, bucket):
    """Return the command that runs a script on a store in that bucket."""
    reach = (bucket.name, bucket.endpoint, bucket.access_key, bucket.secret_key)
    return [sys.executable, "-c", script, *reach]


async def test_keys_can_be_read(opened, keys_in):
    store = opened(prefix="site-1")

    await store_part(store, GZIPPED, gzip.compress(b"{}\n"))

    assert keys_in() == ["site-1/clinic/job-1/output-Patient-1-1-1.ndjson.gz"]


@pytest.mark.parametrize("size", [10, 12 * MIB], ids=["at once", "in blocks"])
async def test_objects_carry_what_a_download_is_served_with(store, raw, bucket, size):
    await store_part(store, GZIPPED, b"a" * size)

    found = head(raw, bucket, "clinic/job-1/output-Patient-1-1-1.ndjson.gz")
    assert found["ContentType"] == "application/fhir+ndjson"
    assert found["ContentEncoding"] == "gzip"
    assert found["ContentDisposition"] == 'attachment; filename="Patient-1-1.ndjson"'
    assert found["ContentLength"] == size


@pytest.mark.parametrize("size", [10, 12 * MIB], ids=["at once", "in blocks"])
async def test_encryption_and_storage_class_reach_the_server(opened, raw, bucket, size):
    store = opened(
        encryption=Encryption.KMS, kms_key_id="alias/exports", storage_class="STANDARD_IA"
    )

    await store_part(store, PART, b"a" * size)

    found = head(raw, bucket, "clinic/job-1/output-Patient-1-1-1.ndjson")
    assert found["ServerSideEncryption"] == "aws:kms"
    assert found["SSEKMSKeyId"].endswith("alias/exports")
    assert found["StorageClass"] == "STANDARD_IA"


async def test_a_part_in_blocks_has_the_digest_of_the_same_bytes_at_once(store):
    content = [bytes([number]) * 700_000 for number in range(20)]

    in_chunks = await store.put(PART, yield_chunks(content))
    other = msgspec.structs.replace(PART, number=2)
    at_once = await store_part(store, other, b"".join(content))

    assert in_chunks == at_once


async def test_a_job_of_more_parts_than_one_request_takes_is_deleted(opened, minio_bucket):
    store = opened(bucket=minio_bucket.name, endpoint=minio_bucket.endpoint)
    raw = minio_bucket.client()
    for number in range(1001):
        key = f"clinic/job-1/output-Patient-1-{number}-1.ndjson"
        raw.put_object(Bucket=minio_bucket.name, Key=key, Body=b"{}\n")
    await store_part(store, msgspec.structs.replace(PART, job_id="job-10"), b"other")

    await store.delete("clinic", "job-1")

    left = raw.list_objects_v2(Bucket=minio_bucket.name)["Contents"]
    assert [each["Key"] for each in left] == ["clinic/job-10/output-Patient-1-1-1.ndjson"]


async def test_an_upload_that_was_begun_counts_as_output_and_goes_with_its_job(
    store, raw, bucket, keys_in
):
    for job in ("job-1", "job-10"):
        raw.create_multipart_upload(Bucket=bucket.name, Key=f"clinic/{job}/part.ndjson")

    assert await list_jobs(store) == [("clinic", "job-1"), ("clinic", "job-10")]
    await store.delete("clinic", "job-1")

    assert keys_in() == ["clinic/job-10/part.ndjson (upload)"]


async def test_uploads_and_folders_of_others_are_none_of_ours(opened, raw, bucket, keys_in):
    store = opened(prefix="ours")
    raw.create_multipart_upload(Bucket=bucket.name, Key="clinic/job-1/theirs")
    raw.put_object(Bucket=bucket.name, Key="clinic/job-1/theirs-too", Body=b"")
    raw.put_object(Bucket=bucket.name, Key="ours-not/clinic/job-1/theirs", Body=b"")
    before = keys_in()

    assert await list_jobs(store) == []
    await store.delete("clinic", "job-1")

    assert keys_in() == before


@pytest.fixture(params=["bucket", "minio_bucket"])
def killed_put(request):
    """The bucket in which a process was killed amid an upload."""
    bucket = request.getfixturevalue(request.param)
    command = python(OPEN + PUT_FOREVER, bucket)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "sent\n"
        process.kill()
    return bucket


@pytest.mark.crash
async def test_an_upload_that_kill_9_leaves_is_found_and_removed(killed_put, opened):
    store = opened(bucket=killed_put.name, endpoint=killed_put.endpoint)
    with pytest.raises(PartMissing):
        await read_part(store, PART)
    assert await list_jobs(store) == [("clinic", "job-1")]

    await store.delete("clinic", "job-1")

    assert await list_jobs(store) == []


def test_a_process_grows_by_a_few_megabytes_however_large_the_part(minio_bucket):
    """O6, as the system sees it: the driver's memory is none that Python knows of."""
    command = python(OPEN + PUT_AND_READ, minio_bucket)

    run = subprocess.run(command, check=True, capture_output=True, text=True)

    assert int(run.stdout) < 32


async def test_a_missing_part_is_named_and_not_where_it_was(store):
    with pytest.raises(PartMissing, match=r"Patient-1-1\.ndjson is gone") as missing:
        await read_part(store, PART)

    assert "job-1" not in str(missing.value)


async def test_a_part_that_is_deleted_while_it_is_read_ends_the_reading(store, monkeypatch):
    monkeypatch.setattr("helios_s3.downloads.WINDOW_BYTES", MIB)
    await store_part(store, PART, b"a" * 3 * MIB)
    reading = store.read(PART)
    await anext(reading)

    await store.delete("clinic", "job-1")

    with pytest.raises(PartMissing):
        _ = [chunk async for chunk in reading]


async def test_a_bucket_that_is_gone_is_told_as_such(opened):
    store = opened(bucket="helios-nowhere")

    with pytest.raises(BackendUnavailable, match="the output bucket does not exist"):
        await store_part(store, PART, b"content")
