"""Errors of a Bulk Data server, and whether a request may succeed when it is repeated."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import msgspec

from helios_core.errors import HeliosError

_TRANSIENT_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
_MAX_WAIT = timedelta(minutes=5)


class ExportFailed(HeliosError):
    """The server refused the export, failed it, or sent something other than it announced."""


class RequestRefused(ExportFailed):
    """The server responded to a request with an error."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.retry_after = retry_after(response)
        issue = _issue(response)
        code, self.reason = issue or ("", response.reason_phrase)
        # A 500 may be transient; one with an OperationOutcome is the result of the export.
        self.transient = self.status in _TRANSIENT_STATUSES or code == "transient"
        self.transient |= self.status == httpx.codes.INTERNAL_SERVER_ERROR and issue is None
        what = f"{response.request.method} {response.request.url.copy_with(query=None)}"
        super().__init__(f"{what} returned {self.status}: {self.reason}")


class _Issue(msgspec.Struct):
    code: str = ""
    diagnostics: str = ""
    details: dict[str, msgspec.Raw] = {}

    @property
    def message(self) -> str:
        text = self.details.get("text")
        return self.diagnostics or (msgspec.json.decode(text, type=str) if text else self.code)


class _Outcome(msgspec.Struct, tag="OperationOutcome", tag_field="resourceType"):
    issue: list[_Issue]


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
    Return how long `Retry-After` asks to wait, at most five minutes, or None if it is unreadable.

    It holds seconds or a date (RFC 9110 §10.2.3).
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
    """Return whether to repeat a request, and after how long if the server says so."""
    if isinstance(error, RequestRefused):
        return error.transient and (error.retry_after or True)
    return isinstance(error, httpx.TransportError)


def should_retry_unsent(error: Exception) -> bool | timedelta:
    """Return what `should_retry` does, for a request that must not be carried out twice."""
    may_have_arrived = isinstance(error, httpx.TransportError) and not isinstance(
        error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout
    )
    return not may_have_arrived and should_retry(error)


def _issue(response: httpx.Response) -> tuple[str, str] | None:
    try:
        outcome = msgspec.json.decode(response.content, type=_Outcome)
    except msgspec.DecodeError:
        return None
    return next(((issue.code, issue.message) for issue in outcome.issue), None)
