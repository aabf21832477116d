"""Errors as OperationOutcomes, with their HTTP statuses."""

from collections.abc import Mapping
from http import HTTPStatus
from traceback import extract_tb
from typing import Any, Final

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from helios_core.errors import (
    BackendError,
    BackendUnavailable,
    BodyTooLarge,
    Forbidden,
    HeliosError,
    InvalidToken,
    JobNotFound,
    MissingToken,
    MultipleMatches,
    PartMissing,
    PartNotFound,
    PatchFailed,
    RequestError,
    ResourceDeleted,
    ResourceExists,
    ResourceNotFound,
    StoreReplaced,
    TooManyExports,
    VersionConflict,
)
from helios_core.fhir.media_types import FHIR_JSON
from helios_core.fhir.outcomes import Severity, outcome_line
from helios_core.http.options import UNSERVED

STATUSES: Final[Mapping[type[HeliosError], int]] = {
    HeliosError: 500,
    RequestError: 400,
    ResourceNotFound: 404,
    ResourceDeleted: 410,
    JobNotFound: 404,
    PartNotFound: 404,
    VersionConflict: 412,
    MultipleMatches: 412,
    ResourceExists: 409,
    PatchFailed: 422,
    TooManyExports: 429,
    BodyTooLarge: 413,
    InvalidToken: 401,
    Forbidden: 403,
    BackendError: 500,
    BackendUnavailable: 503,
    PartMissing: 410,
}
"""The status of a class applies to its subclasses unless they have one of their own."""

CHALLENGES: Final[Mapping[type[HeliosError], str]] = {
    HeliosError: "",
    InvalidToken: 'Bearer error="invalid_token"',
    MissingToken: "Bearer",
    Forbidden: 'Bearer error="insufficient_scope"',
}
"""The WWW-Authenticate of an error (RFC 6750, section 3), by class as in `STATUSES`."""

RETRY_AFTER: Final[Mapping[int, int]] = {429: 10, 503: 5}
"""Seconds; always a number, because clients misread the date form."""

CODES: Final[Mapping[int, str]] = {
    404: "not-found",
    405: "not-supported",
    406: "not-supported",
    413: "too-long",
    415: "not-supported",
    429: "throttled",
    431: "too-long",
    501: "not-supported",
}
"""The FHIR issue codes of requests that are refused before an interaction begins."""

HIDDEN: Final[Mapping[int, str]] = {
    500: "The server failed. The reason is in its log; repeating the request may not help.",
    503: "The server is not available now. Repeat the request after the seconds in Retry-After.",
}
"""The texts for clients if the reason concerns only the operator, by status."""

INTERACTIONS: Final = ("_history", "_search")
"""The path segments that name interactions (FHIR R4, http.html)."""

REFUSED: Final = "The access token is not valid; request another one."
"""The text for clients about a token that is refused, whatever the reason."""

GONE: Final = (
    "This file is no longer on the server, although its export is; start a new export. The reason "
    "is in the server's log."
)
"""The text for clients about a missing part."""

REPLACED: Final = (
    "The database of this server was removed or replaced while it was open, so that nothing is "
    "read or written any more. The operator has to put it back, or to restart the server."
)
"""The text for clients about a store that was replaced."""

log = structlog.stdlib.get_logger()


def status_for(error: HeliosError) -> int:
    """Return the HTTP status of an error."""
    return next(STATUSES[cls] for cls in type(error).__mro__ if cls in STATUSES)


def outcome_response(
    status: int, code: str, diagnostics: str, *, headers: Mapping[str, str] | None = None
) -> Response[bytes]:
    """Return a response with an OperationOutcome of one issue, as JSON whatever was requested."""
    retry = {"Retry-After": str(RETRY_AFTER[status])} if status in RETRY_AFTER else {}
    return Response(
        outcome_line(severity_for(status), code, diagnostics),
        status_code=status,
        media_type=FHIR_JSON,
        headers={**retry, **(headers or {})},
    )


def exception_handlers() -> ExceptionHandlersMap:
    """Return the handlers that turn every exception into an OperationOutcome."""
    return {HeliosError: _expected, HTTPException: _refusal, Exception: _unexpected}


def outcome_for(error: HeliosError) -> bytes:
    """Return the OperationOutcome of an error; it hides the reason of a fault of the server."""
    status = status_for(error)
    return outcome_line(severity_for(status), error.code, _public_text(error))


def severity_for(status: int) -> Severity:
    """Return the severity of a status: fatal if repeating the request may not help."""
    return "fatal" if status == HTTPStatus.INTERNAL_SERVER_ERROR else "error"


def reason_phrase(status: int) -> str:
    """Return the reason phrase of a status."""
    return HTTPStatus(status).phrase


def _unserved_name(request: Request[Any, Any, Any]) -> str | None:
    """
    Return the operation or interaction in a path that no route serves, such as `$validate`.

    Such a name is never a type or an id, though a route may have matched it as one.
    """
    segments = request.scope["path"].split("/")
    names = [name for name in segments if name.startswith("$") or name in INTERACTIONS]
    if not names:
        return None
    templates = [route.path.split("/") for route in request.app.routes]
    literal = (
        {part for part in template if part in names}
        for template in templates
        if len(template) == len(segments)
        and all(t == s or t.startswith("{") for t, s in zip(template, segments, strict=True))
    )
    served = set[str]().union(*literal)
    return next((name for name in names if name not in served), None)


def _unserved(name: str) -> Response[bytes]:
    kind = "operation" if name.startswith("$") else "interaction"
    text = (
        f"The {kind} {name[:64]!r} is not supported at this address; /metadata lists what the "
        "server offers."
    )
    return outcome_response(404, "not-supported", text)


def _public_text(error: HeliosError) -> str:
    if isinstance(error, PartMissing):
        return GONE
    if isinstance(error, StoreReplaced):
        return REPLACED
    if isinstance(error, InvalidToken) and not isinstance(error, MissingToken):
        return REFUSED
    return HIDDEN.get(status_for(error), str(error))


def _expected(request: Request[Any, Any, Any], error: HeliosError) -> Response[bytes]:
    if isinstance(error, ResourceNotFound) and (name := _unserved_name(request)):
        return _unserved(name)
    status = status_for(error)
    if isinstance(error, BackendError) or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("request.failed", status=status, error=type(error).__name__, reason=str(error))
    if isinstance(error, InvalidToken):
        log.info("token.refused", reason=str(error))
    challenge = next(CHALLENGES[cls] for cls in type(error).__mro__ if cls in CHALLENGES)
    headers = {"WWW-Authenticate": challenge} if challenge else {}
    return outcome_response(status, error.code, _public_text(error), headers=headers)


def _refusal(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Respond to a refusal of Litestar or of a guard, such as that of an unknown path."""
    status = error.status_code
    if (
        status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)
        and request.method != UNSERVED
        and (name := _unserved_name(request))
    ):
        return _unserved(name)
    allowed = (error.headers or {}).get("allow", "")
    text = {
        404: "There is nothing at this address; /metadata lists what the server offers.",
        405: f"{request.method} is not supported at this address; supported: {allowed}. "
        "/metadata lists what the server offers.",
        413: "The request body is larger than this server accepts.",
    }.get(status, HIDDEN.get(status, error.detail))
    return outcome_response(status, CODES.get(status, "invalid"), text, headers=error.headers)


def _unexpected(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Respond to a defect; its message is not logged because it may quote a resource."""
    where = [
        f"{frame.filename}:{frame.lineno} {frame.name}"
        for frame in extract_tb(error.__traceback__)
    ]
    log.error("request.crashed", error=type(error).__name__, where=where)
    return outcome_response(500, "exception", HIDDEN[500])
