"""The errors of Elasticsearch and its client as the errors of the contract."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from elastic_transport import ApiError

from helios_core import BackendUnavailable, HeliosError

BLOCKED = "cluster_block_exception"
"""The error type of an index or cluster that is blocked for reads or writes."""

_KINDS = {
    BLOCKED: "an index or the cluster is blocked, as Elasticsearch does itself when its disk is"
    " nearly full; free space there, and see index.blocks in the _settings of its indices",
}
"""What operators can do about a type of error; it is more precise than the status code."""

_REFUSED = {
    400: "it refuses the request, probably because another program created or changed an index of"
    " this name; set HFS_ELASTICSEARCH_PREFIX to a prefix that nobody else uses, or delete that"
    " index, and run `helios index rebuild`",
    401: "it refuses the credentials; check HFS_ELASTICSEARCH_API_KEY, or the user and password",
    403: "the user lacks a right; see docs/how-to/elasticsearch.md for those that are needed",
    404: "an index is missing; make it again with `helios index rebuild`",
    413: "a request is larger than its http.max_content_length",
    429: "it is overloaded, or has too little memory",
    503: "it is starting, or lacks a part of an index; see its _cluster/health",
}
"""What operators can do about a status code."""


@contextmanager
def translated() -> Iterator[None]:
    """
    Turn every error of the client into BackendUnavailable.

    An index holds nothing that is not in the data provider, so no error of it is worse than its
    absence. The texts of errors are left out, since they may quote the request.

    Raises:
        BackendUnavailable: The request failed.
    """
    try:
        yield
    except ApiError as error:
        status = error.meta.status
        reason = _reason(status, kind_of(error), f"it reports {type(error).__name__}")
        raise BackendUnavailable(
            f"Elasticsearch refused a request (status {status}): {reason}"
        ) from error
    except msgspec.ValidationError as error:
        raise incomplete("it lacks a field that every response has") from error
    except HeliosError:
        raise
    except Exception as error:
        # The client's errors have no common base class, and it also lets errors of Python pass.
        raise BackendUnavailable(
            f"Elasticsearch did not respond ({type(error).__name__}): it is down, starting, or"
            " cannot be reached; try again later"
        ) from error


def kind_of(error: ApiError) -> str:
    """Return the type of an error in Elasticsearch's words, or an empty string without one."""
    body = error.body if isinstance(error.body, dict) else {}
    cause = body.get("error")
    kind = cause.get("type") if isinstance(cause, dict) else None
    return kind if isinstance(kind, str) else ""


def not_stored(refused: set[tuple[int, str]]) -> BackendUnavailable:
    """Return the error of a bulk request, from status code and type of each refused operation."""
    status, kind = min(refused)
    return BackendUnavailable(
        f"Elasticsearch did not store all entries (status {status}):"
        f" {_reason(status, kind, 'it refuses entries')}"
    )


def incomplete(reason: str) -> BackendUnavailable:
    """Return the error of a response that is incomplete or malformed."""
    return BackendUnavailable(f"Elasticsearch sent an incomplete response: {reason}")


def _reason(status: int, kind: str, otherwise: str) -> str:
    return _KINDS.get(kind) or _REFUSED.get(status, otherwise)
