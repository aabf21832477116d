"""
Ownership: a prefix belongs to one job store, or to the resources of servers.

Objects two folders below a prefix of output that belong to no job are removed, so nothing else may
be kept there.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import obstore
from botocore.exceptions import ClientError
from obstore.exceptions import (
    AlreadyExistsError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from helios_core import BackendUnavailable, ConfigurationError
from helios_s3.buckets import Bucket
from helios_s3.errors import FAILURES, code_of, meaning, status_of
from helios_s3.layout import OWNER_MARK, PROBE, RESOURCES_MARK, folders_around

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
_ABSENT = frozenset({"NoSuchKey", "NotFound", "404"})
_NO_CONDITIONS = frozenset({"NotImplemented", "501"})
_SERVER_ERROR = 500

ABANDONED_AFTER = timedelta(hours=1)
"""Probes that are older than this were left behind by killed processes."""


def claim(bucket: Bucket, owner: str) -> None:
    """
    Mark the bucket's prefix as belonging to `owner`, and test every right that the store needs.

    Raises:
        ConfigurationError: The prefix belongs to another owner or holds something else, the bucket
            does not exist, or the credentials lack a right.
        BackendUnavailable: The server cannot be reached, or fails.
    """
    _refuse_resources(bucket)
    found = _owner(bucket)
    if found is None:
        _refuse_objects_of_others(bucket)
        found = _mark(bucket, owner)
    if found != owner:
        raise ConfigurationError(
            f"{_place(bucket)} belongs to job store {found}, but this server uses job store "
            f"{owner}; set HFS_BULK_EXPORT_S3_BUCKET to another bucket, or "
            "HFS_BULK_EXPORT_S3_PREFIX to another prefix"
        )
    _test_rights(bucket)


async def claim_for_resources(bucket: Bucket) -> None:
    """
    Mark the bucket's prefix as one of resources, unless output is kept there or around it.

    Raises:
        ConfigurationError: The prefix is used for output, the bucket does not exist, or the
            credentials lack a right.
        BackendUnavailable: The server cannot be reached, or fails.
    """
    with _needing("s3:GetObject", bucket):
        if await _has(bucket, bucket.prefix + OWNER_MARK):
            raise _output_around(bucket, bucket.prefix)
    for folder in folders_around(bucket.prefix):
        # Credentials that may not read there belong to no server with output there.
        with _needing("s3:GetObject", bucket), suppress(PermissionDeniedError):
            if await _has(bucket, folder + OWNER_MARK):
                raise _output_around(bucket, folder)
    with _needing("s3:PutObject", bucket), suppress(AlreadyExistsError):
        await obstore.put_async(
            bucket.store, bucket.prefix + RESOURCES_MARK, b"", mode="create", use_multipart=False
        )


async def _has(bucket: Bucket, key: str) -> bool:
    try:
        await obstore.get_async(bucket.store, key)
    except FileNotFoundError as error:
        if code_of(error) == "NoSuchBucket":
            raise
        return False
    return True


def _output_around(bucket: Bucket, folder: str) -> ConfigurationError:
    where = f"its folder {folder}" if folder else "all of it"
    return ConfigurationError(
        f"{_place(bucket)} cannot be used: {where} is one of export output, where objects that"
        f" belong to no export are removed; set {bucket.settings.variables}_PREFIX to a folder"
        " outside of it, or use another bucket"
    )


def _refuse_resources(bucket: Bucket) -> None:
    """
    Raise an error if the prefix holds resources, or lies within other output.

    Resources in a folder below this prefix are refused by `_refuse_objects_of_others`, or find
    the mark of output when they start.
    """
    for folder, mark in (
        (bucket.prefix, RESOURCES_MARK),
        *((folder, OWNER_MARK) for folder in folders_around(bucket.prefix)),
    ):
        with _needing("s3:GetObject", bucket):
            try:
                bucket.client.get_object(Bucket=bucket.name, Key=folder + mark)["Body"].close()
            except ClientError as error:
                # The right to read may end at the prefix; what is around it is not checked then.
                if code_of(error) in _ABSENT or (folder != bucket.prefix and _is_denied(error)):
                    continue
                raise
        if mark == OWNER_MARK:
            raise _output_around(bucket, folder)
        raise ConfigurationError(
            f"{_place(bucket)} cannot be used: it has the resources of a server; set"
            f" {bucket.settings.variables}_PREFIX to a folder of its own, or use another bucket"
        )


def _is_denied(error: ClientError) -> bool:
    return code_of(error) in _DENIED


def _owner(bucket: Bucket) -> str | None:
    with _needing("s3:GetObject", bucket):
        try:
            response = bucket.client.get_object(Bucket=bucket.name, Key=bucket.prefix + OWNER_MARK)
        except bucket.client.exceptions.NoSuchKey:
            return None
        text: bytes = response["Body"].read()
        return text.decode().strip()


def _mark(bucket: Bucket, owner: str) -> str | None:
    """Write the mark unless one exists, and return the owner that it names afterwards."""
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
    # Not every server supports the condition, so the mark is read again.
    return _owner(bucket)


def _refuse_objects_of_others(bucket: Bucket) -> None:
    # Every folder at the second level counts as a job, and unknown jobs are removed.
    with _needing("s3:ListBucket", bucket):
        response = bucket.client.list_objects_v2(
            Bucket=bucket.name, Prefix=bucket.prefix, Delimiter="/"
        )
    folders = [found["Prefix"] for found in response.get("CommonPrefixes", ())]
    # Another process may have marked and used the prefix meanwhile.
    if folders and _owner(bucket) is None:
        raise ConfigurationError(
            f"{_place(bucket)} holds folders that no Helios server made ({len(folders)}, the "
            f"first is {folders[0]}); set HFS_BULK_EXPORT_S3_PREFIX to an empty folder"
        )


def _test_rights(bucket: Bucket) -> None:
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
    """Remove probes of processes that were killed during their start."""
    folder = {"Bucket": bucket.name, "Prefix": bucket.prefix + PROBE}
    with _needing("s3:ListBucket", bucket):
        probes = bucket.client.list_objects_v2(**folder).get("Contents", ())
    abandoned = datetime.now(UTC) - ABANDONED_AFTER
    with _needing("s3:DeleteObject", bucket):
        for probe in probes:
            if probe["LastModified"] < abandoned:
                bucket.client.delete_object(Bucket=bucket.name, Key=probe["Key"])


@contextmanager
def _needing(right: str, bucket: Bucket) -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        refused = code_of(error) or isinstance(error, UnauthenticatedError)
        raise (
            _refusal(error, right, bucket) if refused else _unreachable(error, bucket)
        ) from error


def _unreachable(error: BaseException, bucket: Bucket) -> BackendUnavailable:
    variables = bucket.settings.variables
    return BackendUnavailable(
        f"{_place(bucket)} cannot be reached at {bucket.endpoint} ({type(error).__name__}); "
        f"start the S3 server, or correct {variables}_ENDPOINT and {variables}_FORCE_PATH_STYLE"
    )


def _refusal(
    error: BaseException, right: str, bucket: Bucket
) -> ConfigurationError | BackendUnavailable:
    """Return the error to raise for a refused request of a starting process, by either driver."""
    code, place, variables = code_of(error), _place(bucket), bucket.settings.variables
    if code == "NoSuchBucket":
        return ConfigurationError(
            f"there is no bucket {bucket.name} at {bucket.endpoint}; create it, or correct "
            f"{variables}_BUCKET or {variables}_ENDPOINT"
        )
    if code in _WRONG_KEY:
        return ConfigurationError(
            f"{place} does not accept the credentials ({code}); correct "
            f"{variables}_ACCESS_KEY_ID and {variables}_SECRET_ACCESS_KEY, or the AWS "
            "configuration"
        )
    if code in _WRONG_REGION:
        return ConfigurationError(
            f"{place} is in another region than {bucket.region} ({code}); "
            f"correct {variables}_REGION"
        )
    if code in _DENIED or isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return ConfigurationError(
            f"the credentials lack the right {right} for {place};"
            f" docs/how-to/{bucket.settings.guide} has a policy with all the rights"
        )
    if (status_of(error) or _SERVER_ERROR) < _SERVER_ERROR:
        return ConfigurationError(
            f"{place} refuses {right}: it {meaning(error)}; if the server at {bucket.endpoint} is"
            f" not an S3 server, correct {variables}_ENDPOINT"
        )
    return BackendUnavailable(f"{place} {meaning(error)}; try again later")


def _place(bucket: Bucket) -> str:
    folder = f", prefix {bucket.prefix}" if bucket.prefix else ""
    return f"the {bucket.settings.use} bucket {bucket.name}{folder}"
