import re
from datetime import timedelta

import botocore.exceptions
import pytest

import helios_s3
from helios_core import API_LEVEL, ConfigurationError, Reach, Secret
from helios_core.config.selection import configure
from helios_core.testing import PART, read_part, store_part
from helios_s3 import S3OutputStore, S3Settings
from helios_s3.buckets import Bucket
from helios_s3.settings import Encryption

S3 = {"HFS_BULK_EXPORT_OUTPUT_BACKEND": "s3", "HFS_BULK_EXPORT_S3_BUCKET": "exports"}


def chosen(**settings):
    own = {f"HFS_BULK_EXPORT_S3_{name}": value for name, value in settings.items()}
    return configure(S3 | own).output_store.settings


async def test_the_hook_describes_a_store_for_many_machines(settings):
    backend = helios_s3.helios_output_store()

    assert (backend.api_level, backend.reach) == (API_LEVEL, Reach.MACHINES)
    assert backend.implementation is S3OutputStore
    async with backend.open(settings()) as store:
        await store.bind("owner")
        await store_part(store, PART, b"content")
        assert await read_part(store, PART) == b"content"


def test_settings_are_read_under_their_traditional_names():
    environ = S3 | {
        "HFS_BULK_EXPORT_S3_PREFIX": "site/1",
        "HFS_BULK_EXPORT_S3_REGION": "eu-central-1",
        "HFS_BULK_EXPORT_S3_ENCRYPTION": "aws:kms",
        "HFS_BULK_EXPORT_S3_SECRET_ACCESS_KEY": "secret",
        "HFS_BULK_EXPORT_S3_ACCESS_KEY_ID": "key",
        "HFS_BULK_EXPORT_FILE_URL_TTL": "90",
        "HFS_S3_PUBLIC_ENDPOINT": "https://files.example",
        "HFS_S3_REGION": "us-west-2",
    }

    own = configure(environ).output_store.settings

    assert (own.bucket, own.prefix) == ("exports", "site/1")
    assert (own.output_region, own.region) == ("eu-central-1", "us-west-2")
    assert own.public_endpoint == "https://files.example"
    assert own.encryption is Encryption.KMS
    assert own.secret_access_key == Secret("secret")
    assert own.file_url_ttl == timedelta(seconds=90)
    assert "secret" not in repr(own).replace("secret_access_key", "")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"BUCKET": "No_Bucket"}, "HFS_BULK_EXPORT_S3_BUCKET is 'No_Bucket'"),
        ({"PREFIX": "/site"}, "HFS_BULK_EXPORT_S3_PREFIX is '/site'"),
        ({"PREFIX": "site/../../x"}, "HFS_BULK_EXPORT_S3_PREFIX"),
        ({"ENDPOINT": "minio:9000"}, "HFS_BULK_EXPORT_S3_ENDPOINT is"),
        ({"ENDPOINT": "https://s3.example/path"}, "HFS_BULK_EXPORT_S3_ENDPOINT is"),
        ({"ENDPOINT": "http://s3.example"}, "HFS_BULK_EXPORT_S3_ALLOW_HTTP is not true"),
        ({"ACCESS_KEY_ID": "key"}, "must be set together or not at all"),
        ({"SESSION_TOKEN": "token"}, "HFS_BULK_EXPORT_S3_SESSION_TOKEN is set without"),
        ({"PROFILE": "p", "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}, "are both set"),
        ({"KMS_KEY_ID": "k"}, "HFS_BULK_EXPORT_S3_KMS_KEY_ID is set without"),
        ({"ENCRYPTION": "rot13"}, "allowed is AES256, aws:kms or aws:kms:dsse"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, expected):
    with pytest.raises(ConfigurationError, match=re.escape(expected)):
        chosen(**settings)


def test_what_is_set_for_a_bucket_that_is_not_selected_does_no_harm():
    configure({"HFS_BULK_EXPORT_S3_BUCKET": "exports", "HFS_S3_PUBLIC_ENDPOINT": "anything"})


def test_links_longer_than_a_signature_lives_are_refused():
    with pytest.raises(ConfigurationError, match="HFS_BULK_EXPORT_FILE_URL_TTL is above 604800"):
        configure(S3 | {"HFS_BULK_EXPORT_FILE_URL_TTL": "604801"})


def test_the_region_is_that_of_the_bucket_then_that_of_all_then_that_of_aws(monkeypatch):
    keys = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")

    assert region(chosen(**keys)) == "eu-north-1"
    general = {"HFS_S3_REGION": "us-west-2", **S3}
    own = {f"HFS_BULK_EXPORT_S3_{name}": value for name, value in keys.items()}
    assert region(configure(general | own).output_store.settings) == "us-west-2"
    assert region(chosen(**keys, REGION="eu-west-1")) == "eu-west-1"


def region(settings):
    bucket = Bucket(settings)
    bucket.close()
    return bucket.client.meta.region_name


async def test_the_environment_of_aws_may_hold_the_credentials(monkeypatch, bucket, opened):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bucket.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.secret_key)
    store = opened(access_key_id=None, secret_access_key=None)

    await store_part(store, PART, b"content")

    assert await read_part(store, PART) == b"content"


async def test_a_profile_of_aws_may_hold_the_credentials(tmp_path, minio_bucket, opened):
    (tmp_path / "aws-credentials").write_text(
        f"[exports]\naws_access_key_id={minio_bucket.access_key}\n"
        f"aws_secret_access_key={minio_bucket.secret_key}\n"
    )
    reach = {"bucket": minio_bucket.name, "endpoint": minio_bucket.endpoint}

    store = opened(access_key_id=None, secret_access_key=None, profile="exports", **reach)

    await store_part(store, PART, b"content")


async def test_own_credentials_win_over_those_of_the_environment(
    monkeypatch, minio_bucket, opened
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-primary-bucket")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-primary-bucket")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-the-primary-bucket")
    store = opened(bucket=minio_bucket.name, endpoint=minio_bucket.endpoint)

    await store.bind("owner")
    await store_part(store, PART, b"content")


def test_a_process_without_credentials_is_told_what_to_set():
    with pytest.raises(ConfigurationError, match="HFS_BULK_EXPORT_S3_ACCESS_KEY_ID"):
        Bucket(S3Settings(bucket="exports"))


def test_a_profile_that_is_not_there_is_named():
    with pytest.raises(ConfigurationError, match="exports-profile") as refused:
        Bucket(S3Settings(bucket="exports", profile="exports-profile"))

    assert isinstance(refused.value.__cause__, botocore.exceptions.ProfileNotFound)


def test_an_http_address_of_the_aws_configuration_is_refused_too(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.example")
    keys = {"access_key_id": Secret("key"), "secret_access_key": Secret("secret")}

    with pytest.raises(ConfigurationError, match=r"without TLS at http://s3\.example"):
        Bucket(S3Settings(bucket="exports", **keys))
