"""The errors of Elasticsearch and its client as the errors of the contract."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from elastic_transport import ApiError

from helios_core import BackendUnavailable, HeliosError

BLOCKED = "cluster_block_exception"
"""The kind of error of an index or a cluster that may not be used at all, or not be changed."""

_KINDS = {
    BLOCKED: "an index or the cluster is blocked, as Elasticsearch does itself when its disk is"
    " nearly full; free space there, and see index.blocks in the _settings of its indices",
}
"""What kinds of errors say that an operator can change; they say more than status codes."""

_REFUSED = {
    400: "it refuses the request as such, mostly because an index of this name is of another"
    " program or was changed; set HFS_ELASTICSEARCH_PREFIX to a beginning that nobody else uses,"
    " or delete that index, and run `helios index rebuild`",
    401: "it refuses the credentials; check HFS_ELASTICSEARCH_API_KEY, or the user and password",
    403: "the user lacks a right; see docs/how-to/elasticsearch.md for those that are needed",
    404: "an index is missing; make it again with `helios index rebuild`",
    413: "a request is larger than its http.max_content_length",
    429: "it has too much to do, or too little memory",
    503: "it is starting, or lacks a part of an index; see its _cluster/health",
}
"""What status codes say that an operator can change."""


@contextmanager
def translated() -> Iterator[None]:
    """
    Turn whatever the client raises into BackendUnavailable.

    An index is never the only place of anything, so nothing about it is worse than its absence.
    Texts of errors are left out, since they may quote what was asked for.

    Raises:
        BackendUnavailable: Elasticsearch did not do what it was asked for.
    """
    try:
        yield
    except ApiError as error:
        status = error.meta.status
        reason = _reason(status, kind_of(error), f"it reports {type(error).__name__}")
        raise BackendUnavailable(
            f"Elasticsearch did not answer a request (status {status}): {reason}"
        ) from error
    except msgspec.ValidationError as error:
        raise incomplete("it lacks something that every answer has") from error
    except HeliosError:
        raise
    except Exception as error:
        # The client has no base class of its errors, and lets those of Python pass as well.
        raise BackendUnavailable(
            f"Elasticsearch did not answer ({type(error).__name__}): it is down, starting, or"
            " cannot be reached; try again later"
        ) from error


def kind_of(error: ApiError) -> str:
    """Return the kind of an error as Elasticsearch names it; an empty text if it names none."""
    body = error.body if isinstance(error.body, dict) else {}
    cause = body.get("error")
    kind = cause.get("type") if isinstance(cause, dict) else None
    return kind if isinstance(kind, str) else ""


def not_stored(refused: set[tuple[int, str]]) -> BackendUnavailable:
    """Return the error of entries that were refused one by one, by status code and kind."""
    status, kind = min(refused)
    return BackendUnavailable(
        f"Elasticsearch did not change all entries (status {status}):"
        f" {_reason(status, kind, 'it refuses entries')}"
    )


def incomplete(reason: str) -> BackendUnavailable:
    """Return the error of an answer that is not all of it, or not one of Elasticsearch."""
    return BackendUnavailable(f"Elasticsearch did not give a complete answer: {reason}")


def _reason(status: int, kind: str, otherwise: str) -> str:
    return _KINDS.get(kind) or _REFUSED.get(status, otherwise)
