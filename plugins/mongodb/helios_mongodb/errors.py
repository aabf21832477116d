"""Errors of MongoDB and its driver as errors of the contract."""

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
"""Reasons of errors that only the operator can resolve, by error code."""

_DAMAGED = frozenset({8, 10334, 51091})
"""Error codes of data that the server cannot read."""

CONFLICTS = frozenset({24, 112})
"""Error codes of conflicts with another transaction."""

DRIVER_ERRORS = (PyMongoError, BSONError, OSError, EOFError, RuntimeError, InvalidStateError)
"""Everything that the driver may raise; OSError includes TimeoutError."""


@contextmanager
def translated() -> Iterator[None]:
    """
    Turn every error of the driver into one of the contract, and pass on cancellations.

    Unknown errors count as temporary. The texts of errors are left out, since they may quote
    values; their types and codes are kept.
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
            # Raised by the event loop and its transports if a connection ends during a command.
            if isinstance(error, RuntimeError) and "closed" not in str(error):
                raise
            raise _lost(error) from error


@contextmanager
def _cancellable() -> Iterator[None]:
    """
    Raise CancelledError at the end if the driver swallowed a cancellation.

    The driver sends every message through `asyncio.wait_for`, which before Python 3.12 loses a
    cancellation that arrives just when the message has been sent.
    """
    before = _cancellations()
    try:
        yield
    except Exception as error:
        if _was_cancelled_since(before):
            raise asyncio.CancelledError from error
        raise
    if _was_cancelled_since(before):
        raise asyncio.CancelledError


def _cancellations() -> "tuple[asyncio.Task[Any] | None, int]":
    """Return the running task, if there is one, and the number of its pending cancellations."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None, 0
    return task, 0 if task is None else task.cancelling()


def _was_cancelled_since(before: "tuple[asyncio.Task[Any] | None, int]") -> bool:
    task, count = _cancellations()
    return task is before[0] and count > before[1]


@contextmanager
def opening() -> Iterator[None]:
    """
    Turn errors that are due to the configured address into ConfigurationError.

    Raises:
        ConfigurationError: The address is malformed, or the server refuses the user.
        BackendUnavailable: The server cannot be reached.
    """
    try:
        with translated():
            yield
    except BackendError as error:
        cause = error.__cause__
        if isinstance(cause, AddressError | InvalidName):
            raise ConfigurationError(
                f"HFS_DATABASE_URL is not a valid address of MongoDB"
                f" ({type(cause).__name__}); set it to one like"
                " mongodb://user:password@host:27017/?replicaSet=rs0"
            ) from error
        if isinstance(cause, OperationFailure) and (reason := _REFUSED.get(cause.code or 0)):
            raise ConfigurationError(
                f"MongoDB refuses the user of HFS_DATABASE_URL: {reason}"
            ) from error
        raise
    except ValueError as error:
        raise ConfigurationError(
            f"HFS_DATABASE_URL is not a valid address of MongoDB ({type(error).__name__});"
            " set it to one like mongodb://user:password@host:27017/?replicaSet=rs0"
        ) from error


def _lost(error: Exception) -> BackendUnavailable:
    return BackendUnavailable(
        f"MongoDB did not respond ({type(error).__name__}): it is down, electing a new primary, or"
        " cannot be reached; try again later"
    )


def _ours(error: OperationFailure) -> BackendError:
    if error.code in _DAMAGED:
        return BackendError(
            f"MongoDB reports damaged data (code {error.code}); see its log, and restore the data"
            " from a backup"
        )
    if error.code in CONFLICTS:
        return StoreBusy(
            f"another write is changing the same documents (code {error.code}); try again later."
            " If its process was killed, another process of Helios aborts the write within"
            " seconds, or MongoDB does after transactionLifetimeLimitSeconds"
        )
    reason = _REFUSED.get(error.code or 0, f"it reports {type(error).__name__}")
    return BackendUnavailable(
        f"MongoDB refused a command (code {error.code}): {reason}; try again later"
    )
