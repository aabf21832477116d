"""PostgreSQL's errors as the errors of the contract."""

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
"""What leaves a connection in a state that nobody knows; OSError includes timeouts."""

ABORTED = (SerializationError, DeadlockDetectedError)
"""The whole transaction was rolled back for the sake of another one; it may be tried again."""

_PASSING = {
    "08": "the connection was lost",
    "25006": "this server only reads; it is a replica, or about to become the primary",
    "25P03": "a transaction was left idle for too long",
    "25P04": "a transaction took too long",
    "40": "other transactions were in the way",
    "53": "it is out of connections, memory or disk space",
    "55P03": "a lock was not free in time",
    "57014": "the statement took too long",
    "57": "it is stopping or starting",
    "58": "its operating system reports an error",
}
"""What SQLSTATEs, by class or whole, say that may be otherwise at the next try."""

_CONTRADICTIONS = ("22", "23", "XX")
"""What SQLSTATEs begin with that say that values are not those that were stored."""

_UNDECODABLE = (OverflowError, UnicodeDecodeError)
"""What the driver raises about values that Python has no form for."""

_REFUSED = {
    "28": "the user or the password is refused; check the address and pg_hba.conf",
    "3D": "there is no such database; create it, or correct the address",
    "42501": "the role lacks a right; it has to own the schema or be granted its use",
}
"""What SQLSTATEs say that only the operator can change."""


def is_of_a_row(error: BaseException) -> bool:
    """Return whether an error, or its cause, says that what is stored is damaged."""
    cause = error.__cause__ or error
    if isinstance(cause, PostgresError):
        return str(cause.sqlstate).startswith(_CONTRADICTIONS)
    return isinstance(cause, _UNDECODABLE)


@contextmanager
def translated() -> Iterator[None]:
    """
    Turn every error of the driver into one of the contract.

    What nobody expected may pass as well, such as a connection whose state is lost, so it is worth
    another try. Texts are left out, since they may quote values; the kind of the error is there.
    """
    try:
        yield
    except PostgresError as error:
        raise _ours(error) from error
    except (OSError, EOFError, TargetServerAttributeNotMatched) as error:
        raise BackendUnavailable(
            f"PostgreSQL did not answer ({type(error).__name__}): it is down, or cannot be"
            " reached; try again later"
        ) from error
    except ClientConfigurationError:
        raise  # a ValueError, which `opening` explains
    except (InterfaceError, InternalClientError, InterfaceWarning, PostgresWarning) as error:
        raise _lost(error) from error
    except _UNDECODABLE as error:
        raise BackendError(
            f"PostgreSQL returned a value that cannot be read ({type(error).__name__}): its row is"
            " damaged; restore what is lost from a backup"
        ) from error
    except (RuntimeError, InvalidStateError) as error:
        # The event loop and the driver's futures, when a connection ends under a statement.
        if isinstance(error, RuntimeError) and "closed" not in str(error):
            raise
        raise _lost(error) from error


@contextmanager
def opening(setting: str) -> Iterator[None]:
    """
    Turn what an address that cannot be used leads to into a refusal to start.

    Raises:
        ConfigurationError: The address of the setting cannot be read, or the server refuses the
            user, the password or the database.
        BackendUnavailable: The server cannot be reached.
    """
    try:
        with translated():
            yield
    except BackendError as error:
        if reason := _listed(_REFUSED, error.__cause__):
            raise ConfigurationError(
                f"PostgreSQL refuses what {setting} says: {reason}"
            ) from error
        raise
    except ValueError as error:
        raise ConfigurationError(
            f"{setting} cannot be read as an address of PostgreSQL ({type(error).__name__}); give"
            " one like postgresql://user:password@host:5432/database"
        ) from error


def _lost(error: Exception) -> BackendUnavailable:
    return BackendUnavailable(
        f"the connection to PostgreSQL was lost in the middle ({type(error).__name__}); try again"
        " later"
    )


def _ours(error: PostgresError) -> Exception:
    state = error.sqlstate
    if reason := _listed(_PASSING, error) or _listed(_REFUSED, error):
        return BackendUnavailable(
            f"PostgreSQL did not do it (SQLSTATE {state}): {reason}; try again later"
        )
    if str(state).startswith("XX"):
        return BackendError(
            f"PostgreSQL reports damaged data or an internal error (SQLSTATE {state}); look into"
            " its log, and restore what is lost from a backup"
        )
    return BackendUnavailable(
        f"PostgreSQL failed unexpectedly ({type(error).__name__}, SQLSTATE {state}); try again"
        " later"
    )


def _listed(reasons: Mapping[str, str], error: BaseException | None) -> str | None:
    state = error.sqlstate or "" if isinstance(error, PostgresError) else ""
    return next((reasons[code] for code in reasons if state.startswith(code)), None)
