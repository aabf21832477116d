"""Errors of a Bulk Data server, and whether a failed request should be repeated."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import msgspec

from helios_core.client.documents import decode_json
from helios_core.errors import HeliosError

_TRANSIENT_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
_MAX_WAIT = timedelta(minutes=5)


class ExportFailed(HeliosError):
    """The server refused the export, failed it, or sent something other than it announced."""


class ServerUnreachable(ExportFailed):
    """The server, or a store of its files, cannot be reached."""


class ExportGone(ExportFailed):
    """The server no longer has the export, so that it cannot be resumed."""

    def __init__(self, refusal: ExportFailed) -> None:
        super().__init__(
            f"{refusal}\nThe export is not on the server any more; start it again, in another "
            "folder."
        )


class RequestRefused(ExportFailed):
    """The server responded to a request with an error."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.retry_after = retry_after(response)
        issues = _issues(response)
        # A 500 may be transient; one with an OperationOutcome is the result of the request.
        self.has_outcome = bool(issues)
        self.transient = self.status in _TRANSIENT_STATUSES
        self.transient |= any(issue.code == "transient" for issue in issues)
        self.transient |= self.status == httpx.codes.INTERNAL_SERVER_ERROR and not issues
        self.reason = "; ".join(map(str, issues)) or response.reason_phrase
        what = f"{response.request.method} {response.request.url.copy_with(query=None)}"
        hint = _HINTS.get(self.status, "")
        super().__init__(f"{what} returned {self.status}: {self.reason}{hint}")


_HINTS = {
    401: "\nThe server needs other credentials: see --client-id, --token-file and --header.",
    403: "\nThe credentials do not suffice: see --scope, --token-file, --header and --tenant.",
}


class OutcomeIssue(msgspec.Struct, frozen=True):
    """One issue of an OperationOutcome."""

    severity: str = ""
    code: str = ""
    diagnostics: str = ""
    details: Mapping[str, Any] = {}

    @property
    def is_loss(self) -> bool:
        """Whether the issue reports that something is missing, and is not only information."""
        return self.severity not in ("information", "success")

    def __str__(self) -> str:
        text = self.details.get("text")
        return self.diagnostics or (text if isinstance(text, str) else "") or self.code


class _Outcome(msgspec.Struct, tag="OperationOutcome", tag_field="resourceType"):
    issue: list[OutcomeIssue]


def read_issues(outcome: bytes) -> list[OutcomeIssue]:
    """
    Return the issues of an OperationOutcome.

    Raises:
        msgspec.DecodeError: It is not an OperationOutcome.
    """
    return decode_json(outcome, _Outcome).issue


def raise_for_refusal(response: httpx.Response) -> None:
    """
    Raise an error unless the response is a success.

    Raises:
        RequestRefused: The status is an error, or a redirection that cannot be followed.
    """
    if not response.is_success:
        raise RequestRefused(response)


def retry_after(response: httpx.Response) -> timedelta | None:
    """
    Return how long to wait by `Retry-After`, at most five minutes; None if it is unreadable.

    The header has seconds or a date (RFC 9110 §10.2.3).
    """
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return min(timedelta(seconds=int(text)), _MAX_WAIT)
    try:
        wait = parsedate_to_datetime(text) - datetime.now(UTC)
    except (TypeError, ValueError):
        return None
    return min(max(wait, timedelta(0)), _MAX_WAIT)


def should_retry(error: Exception) -> bool | timedelta:
    """Return whether to repeat a request, or after how long if the server says that."""
    if isinstance(error, RequestRefused):
        return error.transient and (error.retry_after or True)
    permanent = isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError)
    return isinstance(error, httpx.TransportError) and not permanent


def should_retry_unsent(error: Exception) -> bool | timedelta:
    """Return the same as `should_retry`, for a request that must not be carried out twice."""
    may_have_arrived = isinstance(error, httpx.TransportError) and not isinstance(
        error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout
    )
    return not may_have_arrived and should_retry(error)


def _issues(response: httpx.Response) -> list[OutcomeIssue]:
    try:
        return read_issues(response.content)
    except msgspec.DecodeError:
        return []
