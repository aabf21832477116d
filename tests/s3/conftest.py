import contextlib

import pytest

from helios_core.variables import Secret
from helios_s3 import S3OutputStore, S3Settings
from helios_s3.buckets import Bucket


@pytest.fixture
def settings(bucket):
    """Give the settings that reach the test's bucket, with changes."""

    def settings(**changes):
        return S3Settings(
            **{
                "bucket": bucket.name,
                "endpoint": bucket.endpoint,
                "allow_http": True,
                "force_path_style": True,
                "region": bucket.region,
                "access_key_id": Secret(bucket.access_key),
                "secret_access_key": Secret(bucket.secret_key),
            }
            | changes
        )

    return settings


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
def raw(bucket):
    """The bucket, behind the back of the store."""
    client = bucket.client()
    yield client
    client.close()


@pytest.fixture
def keys_in(bucket, raw):
    """Name every object, and every unfinished upload of it, in the bucket."""

    def keys_in(prefix=""):
        pages = raw.get_paginator("list_objects_v2").paginate(Bucket=bucket.name, Prefix=prefix)
        objects = [found["Key"] for page in pages for found in page.get("Contents", ())]
        uploads = raw.list_multipart_uploads(Bucket=bucket.name).get("Uploads", ())
        begun = [f"{found['Key']} (upload)" for found in uploads]
        return sorted([*objects, *(key for key in begun if key.startswith(prefix))])

    return keys_in
