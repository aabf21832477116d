"""
A prefix belongs to one job store, or to resources, and to nobody else.

Output that belongs to no job is removed, so what is not output must not be where output is looked
for: two folders below the prefix.
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
"""How old the probe of a process that still starts can at most be."""


def claim(bucket: Bucket, owner: str) -> None:
    """
    Make the bucket's prefix belong to `owner`, and try all that the store will do there.

    Raises:
        ConfigurationError: It belongs to another owner, holds something else, does not exist, or
            the credentials lack a right.
        BackendUnavailable: The server cannot be reached, or does not answer as one should.
    """
    _refuse_resources(bucket)
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


async def claim_for_resources(bucket: Bucket) -> None:
    """
    Mark the bucket's prefix as one of resources, unless output is kept there or around it.

    Raises:
        ConfigurationError: It is output's, does not exist, or the credentials lack a right.
        BackendUnavailable: The server cannot be reached, or does not answer as one should.
    """
    with _needing("s3:GetObject", bucket):
        if await _has(bucket, bucket.prefix + OWNER_MARK):
            raise _output_around(bucket, bucket.prefix)
    for folder in folders_around(bucket.prefix):
        # Who may not read there keeps no output there, either.
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
    where = f"the folder {folder} of it" if folder else "the whole of it"
    return ConfigurationError(
        f"{_place(bucket)} cannot be used: {where} is one of export output, and what is there and"
        f" belongs to no export is removed; set {bucket.settings.variables}_PREFIX to a folder"
        " outside of it, or use another bucket"
    )


def _refuse_resources(bucket: Bucket) -> None:
    """
    Refuse to keep output among resources, or in a folder of other output.

    Resources in a folder of this prefix are found as an object of others, or find its mark.
    """
    for folder, mark in (
        (bucket.prefix, RESOURCES_MARK),
        *((folder, OWNER_MARK) for folder in folders_around(bucket.prefix)),
    ):
        with _needing("s3:GetObject", bucket):
            try:
                bucket.client.get_object(Bucket=bucket.name, Key=folder + mark)["Body"].close()
            except ClientError as error:
                # Around the prefix there may be no right to read; whose is what is there then?
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
    except FAILURES as error:
        answered = code_of(error) or isinstance(error, UnauthenticatedError)
        why = _refusal(error, right, bucket) if answered else _unreachable(error, bucket)
        raise why from error


def _unreachable(error: BaseException, bucket: Bucket) -> BackendUnavailable:
    variables = bucket.settings.variables
    return BackendUnavailable(
        f"{_place(bucket)} cannot be reached at {bucket.endpoint} ({type(error).__name__}); "
        f"start the S3 server, or correct {variables}_ENDPOINT and {variables}_FORCE_PATH_STYLE"
    )


def _refusal(
    error: BaseException, right: str, bucket: Bucket
) -> ConfigurationError | BackendUnavailable:
    """Return the error of a request that a starting process makes, by either driver."""
    code, place, variables = code_of(error), _place(bucket), bucket.settings.variables
    if code == "NoSuchBucket":
        return ConfigurationError(
            f"there is no bucket {bucket.name} at {bucket.endpoint}; create it, or correct "
            f"{variables}_BUCKET or {variables}_ENDPOINT"
        )
    if code in _WRONG_KEY:
        return ConfigurationError(
            f"{place} does not accept the credentials ({code}); correct "
            f"{variables}_ACCESS_KEY_ID and {variables}_SECRET_ACCESS_KEY, or what "
            "the AWS configuration has in their place"
        )
    if code in _WRONG_REGION:
        return ConfigurationError(
            f"{place} is in another region than {bucket.region} ({code}); "
            f"correct {variables}_REGION"
        )
    if code in _DENIED or isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return ConfigurationError(
            f"the credentials lack the right {right} for {place};"
            f" docs/how-to/{bucket.settings.guide} has the policy that gives all that is needed"
        )
    if (status_of(error) or _SERVER_ERROR) < _SERVER_ERROR:
        return ConfigurationError(
            f"{place} refuses {right}: it {meaning(error)}; if the server at {bucket.endpoint} is"
            f" not one of S3, correct {variables}_ENDPOINT"
        )
    return BackendUnavailable(f"{place} {meaning(error)}; another try may succeed")


def _place(bucket: Bucket) -> str:
    folder = f", prefix {bucket.prefix}" if bucket.prefix else ""
    return f"the {bucket.settings.use} bucket {bucket.name}{folder}"
