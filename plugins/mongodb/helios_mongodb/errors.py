"""MongoDB's errors as the errors of the contract."""

import asyncio
from asyncio import InvalidStateError
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bson.errors import BSONError
from pymongo.errors import (
    ConfigurationError as AddressError,
)
from pymongo.errors import (
    InvalidName,
    OperationFailure,
    PyMongoError,
)

from helios_core import BackendError, BackendUnavailable, ConfigurationError, StoreBusy

_REFUSED = {
    13: "the user lacks a right; it needs readWrite on the database, see HFS_MONGODB_DATABASE",
    18: "the user or the password is refused; check the address and its authSource",
    8000: "the user or the password is refused; check the address and its authSource",
}
"""What error codes say that only the operator can change."""

_DAMAGED = frozenset({8, 10334, 51091})
"""Error codes of data that the server cannot read."""

HELD = frozenset({24, 112})
"""Error codes of what another transaction holds."""

DRIVER_ERRORS = (PyMongoError, BSONError, OSError, EOFError, RuntimeError, InvalidStateError)
"""Everything that the driver may raise; OSError includes timeouts."""


@contextmanager
def translated() -> Iterator[None]:
    """
    Turn every error of the driver into one of the contract, and pass on each cancellation.

    What nobody expected may pass as well, so it is worth another try. Texts are left out, since
    they may quote values; the kind of the error is there.
    """
    with _cancellable():
        try:
            yield
        except OperationFailure as error:
            raise _ours(error) from error
        except (PyMongoError, OSError, EOFError) as error:
            raise _lost(error) from error
        except BSONError as error:
            raise BackendError(
                f"MongoDB holds a document that cannot be read ({type(error).__name__});"
                " restore it from a backup"
            ) from error
        except (RuntimeError, InvalidStateError) as error:
            # The event loop and its transports, when a connection ends under a command.
            if isinstance(error, RuntimeError) and "closed" not in str(error):
                raise
            raise _lost(error) from error


@contextmanager
def _cancellable() -> Iterator[None]:
    """
    Cancel the task at the end, if it was to end and the driver took that for its own.

    Before Python 3.12, `asyncio.wait_for`, through which the driver sends every message, forgets a
    cancellation that comes when the message has just been sent.
    """
    before = _cancellations()
    try:
        yield
    except Exception as error:
        if _has_grown(before):
            raise asyncio.CancelledError from error
        raise
    if _has_grown(before):
        raise asyncio.CancelledError


def _cancellations() -> "tuple[asyncio.Task[Any] | None, int]":
    """Return the running task, if there is one, and how often it was asked to end."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None, 0
    return task, 0 if task is None else task.cancelling()


def _has_grown(before: "tuple[asyncio.Task[Any] | None, int]") -> bool:
    task, count = _cancellations()
    return task is before[0] and count > before[1]


@contextmanager
def opening() -> Iterator[None]:
    """
    Turn what an address that cannot be used leads to into a refusal to start.

    Raises:
        ConfigurationError: The address cannot be read, or the server refuses the user.
        BackendUnavailable: The server cannot be reached.
    """
    try:
        with translated():
            yield
    except BackendError as error:
        cause = error.__cause__
        if isinstance(cause, AddressError | InvalidName):
            raise ConfigurationError(
                f"HFS_DATABASE_URL cannot be used as an address of MongoDB"
                f" ({type(cause).__name__}); give one like"
                " mongodb://user:password@host:27017/?replicaSet=rs0"
            ) from error
        if isinstance(cause, OperationFailure) and (reason := _REFUSED.get(cause.code or 0)):
            raise ConfigurationError(
                f"MongoDB refuses what HFS_DATABASE_URL says: {reason}"
            ) from error
        raise
    except ValueError as error:
        raise ConfigurationError(
            f"HFS_DATABASE_URL cannot be read as an address of MongoDB ({type(error).__name__});"
            " give one like mongodb://user:password@host:27017/?replicaSet=rs0"
        ) from error


def _lost(error: Exception) -> BackendUnavailable:
    return BackendUnavailable(
        f"MongoDB did not answer ({type(error).__name__}): it is down, choosing a new primary, or"
        " cannot be reached; try again later"
    )


def _ours(error: OperationFailure) -> BackendError:
    if error.code in _DAMAGED:
        return BackendError(
            f"MongoDB reports damaged data (code {error.code}); look into its log, and restore"
            " what is lost from a backup"
        )
    if error.code in HELD:
        return StoreBusy(
            f"another write holds what this one needs (code {error.code}); if its process was"
            " killed, another process of Helios ends it within seconds, and MongoDB after"
            " transactionLifetimeLimitSeconds; try again later"
        )
    reason = _REFUSED.get(error.code or 0, f"it reports {type(error).__name__}")
    return BackendUnavailable(
        f"MongoDB did not do it (code {error.code}): {reason}; try again later"
    )
