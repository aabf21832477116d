"""What the errors of the drivers mean to an operator."""

import re
from types import MappingProxyType

import structlog
from botocore.exceptions import BotoCoreError, ClientError, UndefinedModelAttributeError
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from helios_core import BackendUnavailable

FAILURES = (BaseError, BotoCoreError, ClientError, UndefinedModelAttributeError, OSError)
"""What a request to the bucket can end with; obstore has FileNotFoundError for a 404."""

_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_CONDITIONS = MappingProxyType(
    {
        "AccessDenied": "refuses it; give the credentials the rights of docs/how-to/s3.md",
        "ExpiredToken": "refuses credentials that have expired; renew them",
        "InvalidAccessKeyId": "does not know the access key id; correct the credentials",
        "InvalidRange": "holds less of a part than was published; start the export again",
        "NoSuchBucket": "does not exist; create it",
        "NoSuchUpload": "no longer has the upload of this part; it was removed meanwhile",
        "QuotaExceeded": "has used up its quota; raise it or remove exports",
        "RequestTimeTooSkewed": "has another time than this machine; set the clocks",
        "SignatureDoesNotMatch": "does not accept the secret access key; correct the credentials",
        "XMinioStorageFull": "is on a server that is out of space; free some",
    }
)


def code_of(error: BaseException) -> str:
    """Return the code with which S3 refused, or the HTTP status, or an empty text."""
    if isinstance(error, ClientError):
        return error.response.get("Error", {}).get("Code", "")
    text = str(error)
    found = _CODE.search(text) or _STATUS.search(text)
    return found[1] if found else ""


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of the answer, or None if there was none."""
    if isinstance(error, ClientError):
        status: int | None = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def meaning(error: BaseException) -> str:
    """Return the meaning of an error for the bucket, as a clause without a key or an address."""
    if known := _CONDITIONS.get(code_of(error)):
        return known
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return _CONDITIONS["AccessDenied"]
    if isinstance(error, FileNotFoundError):
        return _CONDITIONS["NoSuchUpload"]
    if code := code_of(error):
        return f"answers with {code}"
    return "cannot be reached"


def unavailable(error: BaseException) -> BackendUnavailable:
    """Log an error for the operator, and give the one to raise in its place."""
    reason = meaning(error)
    structlog.get_logger().warning(
        "output.failed", code=code_of(error), reason=reason, error=type(error).__name__
    )
    return BackendUnavailable(f"the output bucket {reason}")
