"""Unfinished multipart uploads; these functions block, and are to be called from a thread."""

from collections.abc import Iterator

import msgspec

from helios_s3.buckets import Bucket


class Unfinished(msgspec.Struct, frozen=True, kw_only=True):
    """An upload neither completed nor aborted, whose parts are invisible but cost money."""

    key: str
    upload_id: str


def unfinished(bucket: Bucket) -> list[Unfinished]:
    """
    Return all unfinished uploads under the bucket's prefix.

    The whole bucket is listed, since MinIO lists either everything or a single key, whatever the
    prefix.
    """
    return [upload for upload in _all(bucket) if upload.key.startswith(bucket.prefix)]


def abort_under(bucket: Bucket, prefix: str) -> None:
    """Abort the uploads whose keys begin with a prefix."""
    for upload in unfinished(bucket):
        if upload.key.startswith(prefix):
            _abort(bucket, upload)


def abort_of(bucket: Bucket, key: str) -> None:
    """Abort the uploads of one key, which belongs to one attempt of one part."""
    for upload in _all(bucket, Prefix=key):
        if upload.key == key:
            _abort(bucket, upload)


def _all(bucket: Bucket, **options: str) -> Iterator[Unfinished]:
    pages = bucket.client.get_paginator("list_multipart_uploads")
    for page in pages.paginate(Bucket=bucket.name, **options):
        for upload in page.get("Uploads", ()):
            yield Unfinished(key=upload["Key"], upload_id=upload["UploadId"])


def _abort(bucket: Bucket, upload: Unfinished) -> None:
    try:
        bucket.client.abort_multipart_upload(
            Bucket=bucket.name, Key=upload.key, UploadId=upload.upload_id
        )
    except bucket.client.exceptions.NoSuchUpload:
        return
