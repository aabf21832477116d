import asyncio
import ssl

import asyncpg
import pytest

from helios_core import BackendError, BackendUnavailable, ConfigurationError
from helios_postgres.errors import opening, translated


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.AdminShutdownError("canary"),
        asyncpg.CannotConnectNowError("canary"),
        asyncpg.ConnectionDoesNotExistError("canary"),
        asyncpg.DeadlockDetectedError("canary"),
        asyncpg.DiskFullError("canary"),
        asyncpg.InvalidPasswordError("canary"),
        asyncpg.LockNotAvailableError("canary"),
        asyncpg.QueryCanceledError("canary"),
        asyncpg.ReadOnlySQLTransactionError("canary"),
        asyncpg.SerializationError("canary"),
        asyncpg.TooManyConnectionsError("canary"),
        asyncpg.InterfaceError("connection is closed: canary"),
        asyncpg.InternalClientError("another operation is in progress: canary"),
        ConnectionResetError("canary"),
        TimeoutError("canary"),
    ],
)
def test_what_may_pass_is_worth_another_try(error):
    with pytest.raises(BackendUnavailable, match="try again later") as caught, translated():
        raise error

    assert caught.value.__cause__ is error
    assert "canary" not in str(caught.value)


def test_damage_is_for_the_operator():
    with pytest.raises(BackendError, match="XX001") as caught, translated():
        raise asyncpg.DataCorruptedError("canary")

    assert not isinstance(caught.value, BackendUnavailable)
    assert "canary" not in str(caught.value)


def driver_errors():
    """Every exception class of the driver, by introspection."""
    for module in (asyncpg.exceptions, asyncpg.exceptions._base):
        yield from (c for c in vars(module).values() if isinstance(c, type))


EVERY = sorted(
    {c for c in driver_errors() if issubclass(c, Exception)}
    - {asyncpg.exceptions.ClientConfigurationError},
    key=lambda c: c.__name__,
)


@pytest.mark.parametrize("error_class", EVERY)
def test_no_error_of_the_driver_passes_as_it_is(error_class):
    with pytest.raises(BackendError) as caught, translated():
        raise error_class("canary")

    state = getattr(error_class, "sqlstate", None) or ""
    assert isinstance(caught.value, BackendUnavailable) is not state.startswith("XX")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to perform operation on <TCPTransport closed=True>; canary"),
        asyncio.InvalidStateError("canary"),
        asyncio.IncompleteReadError(b"canary", None),
        ssl.SSLError("canary"),
    ],
)
def test_what_the_event_loop_says_of_a_lost_connection_is_no_defect(error):
    with pytest.raises(BackendUnavailable) as caught, translated():
        raise error

    assert "canary" not in str(caught.value)


def test_a_defect_of_ours_passes_unchanged():
    with pytest.raises(KeyError), translated():
        raise KeyError("ours")


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InvalidPasswordError("canary"),
        asyncpg.InvalidAuthorizationSpecificationError("canary"),
        asyncpg.InvalidCatalogNameError("canary"),
        asyncpg.InsufficientPrivilegeError("canary"),
        asyncpg.exceptions.ClientConfigurationError("canary"),
        ValueError("canary"),
    ],
)
def test_what_only_the_operator_can_change_stops_the_start(error):
    refused = pytest.raises(ConfigurationError, match="HFS_DATABASE_URL")
    with refused as caught, opening("HFS_DATABASE_URL"):
        raise error

    assert "canary" not in str(caught.value)


def test_a_server_that_is_starting_is_no_matter_of_configuration():
    with pytest.raises(BackendUnavailable), opening("HFS_DATABASE_URL"):
        raise asyncpg.CannotConnectNowError
