import contextlib
import os
from urllib.parse import urlsplit

import pytest

from helios_core import Secret
from helios_s3 import (
    S3OutputStore,
    S3ResourceSettings,
    S3Settings,
    buckets,
    log,
    open_data_provider,
)
from helios_s3.buckets import Bucket
from helios_s3.settings import MEBIBYTE
from tests.proxies import HTTPProxy


@pytest.fixture(autouse=True)
def no_aws_configuration(monkeypatch, tmp_path):
    """Keep what the machine has of AWS, and the metadata service of a cloud, out of the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))


@pytest.fixture
def settings(bucket):
    """Return the settings that reach the test's bucket, with changes."""

    def settings(**changes):
        reaching = {
            "bucket": bucket.name,
            "endpoint": bucket.endpoint,
            "allow_http": True,
            "force_path_style": True,
            "region": bucket.region,
            "access_key_id": Secret(bucket.access_key),
            "secret_access_key": Secret(bucket.secret_key),
            # The least there is, so that what is tested in blocks need not be large.
            "block_bytes": 5 * MEBIBYTE,
        }
        return S3Settings(**reaching | changes)

    return settings


@pytest.fixture
def resource_settings():
    """Return the settings of resources in a bucket, with changes."""

    def resource_settings(bucket, **changes):
        reaching = {
            "bucket": bucket.name,
            "endpoint": bucket.endpoint,
            "allow_http": True,
            "force_path_style": True,
            "region": bucket.region,
            "access_key_id": Secret(bucket.access_key),
            "secret_access_key": Secret(bucket.secret_key),
        }
        return S3ResourceSettings(**reaching | changes)

    return resource_settings


@pytest.fixture
def resources(minio_bucket, resource_settings):
    """Open a data provider on the test's bucket, with changed settings."""
    return lambda **changes: open_data_provider(resource_settings(minio_bucket, **changes))


@pytest.fixture
def impatient(monkeypatch):
    """Stop trying after a second instead of minutes."""
    monkeypatch.setattr(log, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(buckets, "RETRIES", buckets.retries(most=2, seconds=1))


@pytest.fixture
def opened(settings):
    """Open a store on the test's bucket, with changed settings; it is closed at the end."""
    with contextlib.ExitStack() as stack:

        def opened(**changes):
            bucket = Bucket(settings(**changes))
            stack.callback(bucket.close)
            return S3OutputStore(bucket)

        yield opened


@pytest.fixture
def store(opened):
    return opened()


@pytest.fixture
def proxy(bucket):
    """A network before the S3 server that can be told to fail."""
    with HTTPProxy(address_of(bucket), seed=1) as proxy:
        yield proxy


@pytest.fixture
def minio_proxy(minio_bucket):
    """A network before the bucket of resources that can be told to fail."""
    with HTTPProxy(address_of(minio_bucket), seed=1) as proxy:
        yield proxy


def address_of(bucket):
    address = urlsplit(bucket.endpoint)
    return address.hostname, address.port


@pytest.fixture
def raw(bucket):
    """The bucket, behind the back of the store."""
    return bucket.client()


@pytest.fixture
def keys_in(bucket, raw):
    """Name every object in the bucket, and every unfinished upload."""

    def keys_in(prefix=""):
        pages = raw.get_paginator("list_objects_v2").paginate(Bucket=bucket.name, Prefix=prefix)
        objects = [found["Key"] for page in pages for found in page.get("Contents", ())]
        # MinIO lists the uploads of the whole bucket or of one key, but of no prefix.
        uploads = raw.list_multipart_uploads(Bucket=bucket.name).get("Uploads", ())
        begun = [f"{found['Key']} (upload)" for found in uploads]
        return sorted([*objects, *(key for key in begun if key.startswith(prefix))])

    return keys_in
