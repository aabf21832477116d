"""Errors of the drivers, explained to operators."""

import re
from types import MappingProxyType

import structlog
from botocore.exceptions import BotoCoreError, ClientError, UndefinedModelAttributeError
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from helios_core import BackendUnavailable

FAILURES = (BaseError, BotoCoreError, ClientError, UndefinedModelAttributeError, OSError)
"""Errors of a request to the bucket; obstore raises FileNotFoundError for a 404."""

_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_CONDITIONS = MappingProxyType(
    {
        "AccessDenied": "refuses access; give the credentials the rights of docs/how-to/s3.md",
        "ExpiredToken": "refuses credentials that have expired; renew them",
        "InvalidAccessKeyId": "does not know the access key id; correct the credentials",
        "InvalidRange": "holds less of a part than was published; start the export again",
        "NoSuchBucket": "does not exist; create it",
        "NoSuchUpload": "no longer has the upload of this part; it was removed meanwhile",
        "QuotaExceeded": "has used up its quota; raise it or remove exports",
        "RequestTimeTooSkewed": "has a different time than this machine; set the clocks",
        "SignatureDoesNotMatch": "does not accept the secret access key; correct the credentials",
        "XMinioStorageFull": "is on a server that is out of space; free some",
    }
)


def code_of(error: BaseException) -> str:
    """Return the error code of S3, else the HTTP status, else an empty string."""
    if isinstance(error, ClientError):
        return error.response.get("Error", {}).get("Code", "")
    text = str(error)
    found = _CODE.search(text) or _STATUS.search(text)
    return found[1] if found else ""


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of the response, or None without one."""
    if isinstance(error, ClientError):
        status: int | None = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def meaning(error: BaseException) -> str:
    """Return what is wrong with the bucket, as a clause without a key or an address."""
    if known := _CONDITIONS.get(code_of(error)):
        return known
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return _CONDITIONS["AccessDenied"]
    if isinstance(error, FileNotFoundError):
        return _CONDITIONS["NoSuchUpload"]
    if code := code_of(error):
        return f"responds with {code}"
    return "cannot be reached"


def unavailable(error: BaseException) -> BackendUnavailable:
    """Log an error, and return the one to raise instead."""
    reason = meaning(error)
    structlog.get_logger().warning(
        "output.failed", code=code_of(error), reason=reason, error=type(error).__name__
    )
    return BackendUnavailable(f"the output bucket {reason}")
