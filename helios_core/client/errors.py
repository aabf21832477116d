"""What a Bulk Data server refuses, and whether asking again may help."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import msgspec

from helios_core.errors import HeliosError

_PASSING = frozenset({408, 425, 429, 502, 503, 504})
_LONGEST_WAIT = timedelta(minutes=5)


class ExportFailed(HeliosError):
    """The server refused the export, failed it, or gave something else than it announced."""


class RequestRefused(ExportFailed):
    """The server answered a request with an error."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.retry_after = retry_after(response)
        issue = _issue(response)
        code, self.reason = issue or ("", response.reason_phrase)
        # A bare 500 may pass; one that explains itself is the outcome of the export.
        self.passing = self.status in _PASSING or code == "transient"
        self.passing |= self.status == httpx.codes.INTERNAL_SERVER_ERROR and issue is None
        what = f"{response.request.method} {response.request.url.copy_with(query=None)}"
        super().__init__(f"{what} was answered with {self.status}: {self.reason}")


class _Issue(msgspec.Struct):
    code: str = ""
    diagnostics: str = ""
    details: dict[str, msgspec.Raw] = {}

    @property
    def words(self) -> str:
        text = self.details.get("text")
        return self.diagnostics or (msgspec.json.decode(text, type=str) if text else self.code)


class _Outcome(msgspec.Struct, tag="OperationOutcome", tag_field="resourceType"):
    issue: list[_Issue]


def raise_for_refusal(response: httpx.Response) -> None:
    """
    Let a success pass.

    Raises:
        Refused: The status is an error, or a redirection that leads nowhere.
    """
    if not response.is_success:
        raise RequestRefused(response)


def retry_after(response: httpx.Response) -> timedelta | None:
    """Give what `Retry-After` asks for, as seconds or as a date (RFC 9110 §10.2.3)."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return min(timedelta(seconds=int(text)), _LONGEST_WAIT)
    try:
        wait = parsedate_to_datetime(text) - datetime.now(UTC)
    except (TypeError, ValueError):
        return None
    return min(max(wait, timedelta(0)), _LONGEST_WAIT)


def should_retry(error: Exception) -> bool | timedelta:
    """Whether to ask again, and after how long where the server says so."""
    if isinstance(error, RequestRefused):
        return error.passing and (error.retry_after or True)
    return isinstance(error, httpx.TransportError)


def should_retry_unsent(error: Exception) -> bool | timedelta:
    """As `should_retry`, for a request that must not be carried out twice."""
    heard = isinstance(error, httpx.TransportError) and not isinstance(
        error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout
    )
    return not heard and should_retry(error)


def _issue(response: httpx.Response) -> tuple[str, str] | None:
    try:
        outcome = msgspec.json.decode(response.content, type=_Outcome)
    except msgspec.DecodeError:
        return None
    return next(((issue.code, issue.words) for issue in outcome.issue), None)
