"""A prefix belongs to one job store, and a process starts only with every right it will need."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from botocore.exceptions import BotoCoreError, ClientError

from helios_core import BackendUnavailable, ConfigurationError
from helios_s3.buckets import Bucket
from helios_s3.errors import code_of, meaning
from helios_s3.layout import OWNER_MARK, PROBE

_DENIED = frozenset({"AccessDenied", "403", "AllAccessDisabled", "AccessControlListNotSupported"})
_WRONG_KEY = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "ExpiredToken"}
)
_WRONG_REGION = frozenset(
    {
        "PermanentRedirect",
        "301",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
    }
)
_TAKEN = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_NO_CONDITIONS = frozenset({"NotImplemented", "501"})
_SERVER_ERROR = 500

ABANDONED_AFTER = timedelta(hours=1)
"""How old the probe of a process that still starts can at most be."""


def claim(bucket: Bucket, owner: str) -> None:
    """
    Make the bucket's prefix belong to `owner`, and try all that the store will do there.

    Raises:
        ConfigurationError: It belongs to another owner, holds something else, does not exist, or
            the credentials lack a right.
        BackendUnavailable: The server cannot be reached, or does not answer as one should.
    """
    found = _owner(bucket)
    if found is None:
        _refuse_objects_of_others(bucket)
        found = _mark(bucket, owner)
    if found != owner:
        raise ConfigurationError(
            f"{_place(bucket)} belongs to job store {found}, this server's is {owner}; give it a "
            "bucket of its own in HFS_BULK_EXPORT_S3_BUCKET, or a prefix of its own in "
            "HFS_BULK_EXPORT_S3_PREFIX"
        )
    _try_rights(bucket)


def _owner(bucket: Bucket) -> str | None:
    with _needing("s3:GetObject", bucket):
        try:
            answer = bucket.client.get_object(Bucket=bucket.name, Key=bucket.prefix + OWNER_MARK)
        except bucket.client.exceptions.NoSuchKey:
            return None
        text: bytes = answer["Body"].read()
        return text.decode().strip()


def _mark(bucket: Bucket, owner: str) -> str | None:
    """Write the mark unless there is one, and give what it says then."""
    mark = {
        "Bucket": bucket.name,
        "Key": bucket.prefix + OWNER_MARK,
        "Body": f"{owner}\n".encode(),
    }
    with _needing("s3:PutObject", bucket):
        try:
            bucket.client.put_object(**mark, IfNoneMatch="*")
        except ClientError as error:
            if code_of(error) in _NO_CONDITIONS:
                bucket.client.put_object(**mark)
            elif code_of(error) not in _TAKEN:
                raise
    # Not every server heeds the condition: what counts is what is there in the end.
    return _owner(bucket)


def _refuse_objects_of_others(bucket: Bucket) -> None:
    # Whatever lies two folders deep counts as a job, and a job nobody knows is swept.
    with _needing("s3:ListBucket", bucket):
        answer = bucket.client.list_objects_v2(
            Bucket=bucket.name, Prefix=bucket.prefix, Delimiter="/"
        )
    folders = [found["Prefix"] for found in answer.get("CommonPrefixes", ())]
    # Another process may have marked the place since we looked, and begun to use it.
    if folders and _owner(bucket) is None:
        raise ConfigurationError(
            f"{_place(bucket)} holds folders that no Helios server made ({len(folders)}, the "
            f"first is {folders[0]}); set HFS_BULK_EXPORT_S3_PREFIX to an empty one"
        )


def _try_rights(bucket: Bucket) -> None:
    probe = {"Bucket": bucket.name, "Key": f"{bucket.prefix}{PROBE}-{secrets.token_hex(8)}"}
    client = bucket.client
    with _needing("s3:PutObject", bucket):
        client.put_object(**probe, Body=b"", **bucket.storage)
    with _needing("s3:GetObject", bucket):
        client.get_object(**probe)["Body"].close()
    with _needing("s3:DeleteObject", bucket):
        client.delete_object(**probe)
    _remove_abandoned(bucket)
    with _needing("s3:PutObject", bucket):
        upload = client.create_multipart_upload(**probe, **bucket.storage)["UploadId"]
    with _needing("s3:AbortMultipartUpload", bucket):
        client.abort_multipart_upload(**probe, UploadId=upload)
    with _needing("s3:ListBucketMultipartUploads", bucket):
        client.list_multipart_uploads(Bucket=bucket.name, MaxUploads=1)


def _remove_abandoned(bucket: Bucket) -> None:
    """Remove the probes of processes that were killed while they started."""
    place = {"Bucket": bucket.name, "Prefix": bucket.prefix + PROBE}
    with _needing("s3:ListBucket", bucket):
        probes = bucket.client.list_objects_v2(**place).get("Contents", ())
    abandoned = datetime.now(UTC) - ABANDONED_AFTER
    with _needing("s3:DeleteObject", bucket):
        for probe in probes:
            if probe["LastModified"] < abandoned:
                bucket.client.delete_object(Bucket=bucket.name, Key=probe["Key"])


@contextmanager
def _needing(right: str, bucket: Bucket) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _refusal(error, right, bucket) from error
    except BotoCoreError as error:
        raise BackendUnavailable(
            f"{_place(bucket)} cannot be reached at {bucket.endpoint} ({type(error).__name__}); "
            "start the S3 server, or correct HFS_BULK_EXPORT_S3_ENDPOINT and "
            "HFS_BULK_EXPORT_S3_FORCE_PATH_STYLE"
        ) from error


def _refusal(
    error: ClientError, right: str, bucket: Bucket
) -> ConfigurationError | BackendUnavailable:
    code, place = code_of(error), _place(bucket)
    if code == "NoSuchBucket":
        return ConfigurationError(
            f"there is no bucket {bucket.name} at {bucket.endpoint}; create it, or correct "
            "HFS_BULK_EXPORT_S3_BUCKET or HFS_BULK_EXPORT_S3_ENDPOINT"
        )
    if code in _WRONG_KEY:
        return ConfigurationError(
            f"{place} does not accept the credentials ({code}); correct "
            "HFS_BULK_EXPORT_S3_ACCESS_KEY_ID and HFS_BULK_EXPORT_S3_SECRET_ACCESS_KEY, or what "
            "the AWS configuration has in their place"
        )
    if code in _WRONG_REGION:
        return ConfigurationError(
            f"{place} is in another region than {bucket.region} ({code}); "
            "correct HFS_BULK_EXPORT_S3_REGION"
        )
    if code in _DENIED:
        return ConfigurationError(
            f"the credentials lack the right {right} for {place}; docs/how-to/s3.md has the "
            "policy that gives all that is needed"
        )
    if error.response["ResponseMetadata"].get("HTTPStatusCode", 500) < _SERVER_ERROR:
        return ConfigurationError(f"{place} refuses {right}: it {meaning(error)}")
    return BackendUnavailable(f"{place} {meaning(error)}; another try may succeed")


def _place(bucket: Bucket) -> str:
    folder = f", prefix {bucket.prefix}" if bucket.prefix else ""
    return f"the output bucket {bucket.name}{folder}"
