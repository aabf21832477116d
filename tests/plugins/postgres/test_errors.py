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


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UniqueViolationError(),
        asyncpg.PostgresSyntaxError(),
        asyncpg.InterfaceError("another operation is in progress"),
        asyncpg.exceptions.DataError("expected int"),
        KeyError("ours"),
    ],
)
def test_a_defect_of_ours_passes_unchanged(error):
    with pytest.raises(type(error)) as caught, translated():
        raise error

    assert caught.value is error


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
