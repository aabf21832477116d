"""Errors of PostgreSQL and its driver as errors of the contract."""

from asyncio import InvalidStateError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from asyncpg import InterfaceError, InternalClientError, PostgresError
from asyncpg.exceptions import (
    ClientConfigurationError,
    DeadlockDetectedError,
    InterfaceWarning,
    PostgresWarning,
    SerializationError,
    TargetServerAttributeNotMatched,
)

from helios_core import BackendError, BackendUnavailable, ConfigurationError

DRIVER_ERRORS = (
    *(InterfaceError, InternalClientError),
    *(OSError, EOFError, RuntimeError, InvalidStateError),
)
"""Errors that leave a connection in an unknown state; OSError includes TimeoutError."""

ABORTED = (SerializationError, DeadlockDetectedError)
"""Errors of a transaction that was rolled back in favour of another one; it may be repeated."""

_TEMPORARY = {
    "08": "the connection was lost",
    "25006": "the server is read-only; it is a replica, or about to become the primary",
    "25P03": "a transaction was left idle for too long",
    "25P04": "a transaction took too long",
    "40": "other transactions were in the way",
    "53": "it is out of connections, memory or disk space",
    "55P03": "a lock was not free in time",
    "57014": "the statement took too long",
    "57": "it is stopping or starting",
    "58": "its operating system reports an error",
}
"""Reasons of temporary errors, by SQLSTATE or by its first characters."""

_DAMAGED = ("22", "23", "XX")
"""First characters of the SQLSTATEs of damaged data."""

_UNDECODABLE = (OverflowError, UnicodeDecodeError)
"""Errors of the driver for values that Python cannot represent."""

_REFUSED = {
    "28": "the user or the password is refused; check the address and pg_hba.conf",
    "3D": "there is no such database; create it, or correct the address",
    "42501": "the role lacks a right; it has to own the schema or be granted its use",
}
"""Reasons of errors that only the operator can resolve, by the start of their SQLSTATE."""


def is_damage(error: BaseException) -> bool:
    """Return whether an error, or its cause, is due to damaged data."""
    cause = error.__cause__ or error
    if isinstance(cause, PostgresError):
        return str(cause.sqlstate).startswith(_DAMAGED)
    return isinstance(cause, _UNDECODABLE)


@contextmanager
def translated() -> Iterator[None]:
    """
    Turn every error of the driver into one of the contract.

    Unknown errors count as temporary. The texts of errors are left out, since they may quote
    values; their types and SQLSTATEs are kept.
    """
    try:
        yield
    except PostgresError as error:
        raise _ours(error) from error
    except (OSError, EOFError, TargetServerAttributeNotMatched) as error:
        raise BackendUnavailable(
            f"PostgreSQL did not respond ({type(error).__name__}): it is down, or cannot be"
            " reached; try again later"
        ) from error
    except ClientConfigurationError:
        raise  # a ValueError, which `opening` explains
    except (InterfaceError, InternalClientError, InterfaceWarning, PostgresWarning) as error:
        raise _lost(error) from error
    except _UNDECODABLE as error:
        raise BackendError(
            f"PostgreSQL returned a value that cannot be read ({type(error).__name__}): its row is"
            " damaged; restore it from a backup"
        ) from error
    except (RuntimeError, InvalidStateError) as error:
        # Raised by the event loop and the driver if a connection ends during a statement.
        if isinstance(error, RuntimeError) and "closed" not in str(error):
            raise
        raise _lost(error) from error


@contextmanager
def opening(setting: str) -> Iterator[None]:
    """
    Turn errors that are due to the configured address into ConfigurationError.

    Raises:
        ConfigurationError: The address is malformed, or the server refuses the user, the
            password or the database.
        BackendUnavailable: The server cannot be reached.
    """
    try:
        with translated():
            yield
    except BackendError as error:
        if reason := _listed(_REFUSED, error.__cause__):
            raise ConfigurationError(
                f"PostgreSQL refuses the connection of {setting}: {reason}"
            ) from error
        raise
    except ValueError as error:
        raise ConfigurationError(
            f"{setting} is not a valid address of PostgreSQL ({type(error).__name__}); set it to"
            " one like postgresql://user:password@host:5432/database"
        ) from error


def _lost(error: Exception) -> BackendUnavailable:
    return BackendUnavailable(
        f"the connection to PostgreSQL was lost ({type(error).__name__}); try again later"
    )


def _ours(error: PostgresError) -> Exception:
    state = error.sqlstate
    if reason := _listed(_TEMPORARY, error) or _listed(_REFUSED, error):
        return BackendUnavailable(
            f"PostgreSQL refused a statement (SQLSTATE {state}): {reason}; try again later"
        )
    if str(state).startswith("XX"):
        return BackendError(
            f"PostgreSQL reports damaged data or an internal error (SQLSTATE {state}); see its"
            " log, and restore damaged data from a backup"
        )
    return BackendUnavailable(
        f"PostgreSQL failed unexpectedly ({type(error).__name__}, SQLSTATE {state}); try again"
        " later"
    )


def _listed(reasons: Mapping[str, str], error: BaseException | None) -> str | None:
    state = error.sqlstate or "" if isinstance(error, PostgresError) else ""
    return next((reasons[code] for code in reasons if state.startswith(code)), None)
