"""The errors of Elasticsearch and its client as the errors of the contract."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from elastic_transport import ApiError

from helios_core import BackendUnavailable, HeliosError

_REFUSED = {
    401: "it refuses the credentials; check HFS_ELASTICSEARCH_API_KEY, or the user and password",
    403: "the user lacks a right; see docs/how-to/elasticsearch.md for those that are needed",
    404: "an index is missing; make it again with `helios index rebuild`",
    413: "a request is larger than its http.max_content_length",
    429: "it has too much to do, or too little memory",
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
        reason = _REFUSED.get(status, f"it reports {type(error).__name__}")
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


def not_stored(statuses: set[int]) -> BackendUnavailable:
    """Return the error of entries that were refused one by one."""
    status = min(statuses)
    reason = _REFUSED.get(status, "it refuses entries")
    return BackendUnavailable(
        f"Elasticsearch did not change all entries (status {status}): {reason}"
    )


def incomplete(reason: str) -> BackendUnavailable:
    """Return the error of an answer that is not all of it, or not one of Elasticsearch."""
    return BackendUnavailable(f"Elasticsearch did not give a complete answer: {reason}")
