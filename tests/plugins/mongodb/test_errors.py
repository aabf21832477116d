"""Whatever the driver raises is an error of the contract, and says nothing of what is stored."""

import asyncio
from contextlib import suppress

import bson.errors
import pymongo.errors
import pytest
from pymongo.asynchronous.pool import AsyncConnection

from helios_core import BackendError, ConfigurationError, Secret
from helios_core.testing import corpus, write
from helios_mongodb import MongoSettings
from helios_mongodb.errors import translated

ERRORS = sorted(
    {
        each
        for module in (pymongo.errors, bson.errors)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Exception) and each is not Exception
    }
    - {pymongo.errors.EncryptionError, pymongo.errors.EncryptedCollectionError},
    key=lambda each: each.__name__,
)


def an_error(kind):
    if issubclass(kind, pymongo.errors.BulkWriteError | pymongo.errors.ClientBulkWriteException):
        return kind({"errmsg": "canary"}, verbose=False) if kind.__name__[0] == "C" else kind({})
    return kind("canary")


@pytest.mark.parametrize("kind", ERRORS, ids=lambda each: each.__name__)
def test_every_error_of_the_driver_is_one_of_the_contract(kind):
    with pytest.raises(BackendError) as raised, translated():
        raise an_error(kind)

    assert "canary" not in str(raised.value)


def test_an_error_of_ours_passes_as_it_is():
    with pytest.raises(KeyError), translated():
        raise KeyError("ours")


@pytest.mark.parametrize("url", ["postgresql://canary/x", "data/canary.db"])
def test_the_address_of_another_database_is_refused(url):
    with pytest.raises(ConfigurationError) as raised:
        MongoSettings(database_url=Secret(url))

    assert "canary" not in str(raised.value)


async def test_a_cancellation_that_the_driver_takes_for_its_own_is_passed_on(
    provider, monkeypatch
):
    """asyncio.wait_for of Python 3.11 forgets one that comes when it is just done."""
    send, sending = AsyncConnection.send_message, asyncio.Event()

    async def forgetful(connection, *arguments):
        if asyncio.current_task().get_name() == "cancelled" and not sending.is_set():
            sending.set()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
        await send(connection, *arguments)

    monkeypatch.setattr(AsyncConnection, "send_message", forgetful)
    for asked in (
        provider.get(corpus.type_key("Patient").resource("p1")),
        write(provider, corpus.patient("p1")),
        provider.transaction_time(),
    ):
        sending.clear()
        task = asyncio.create_task(asked, name="cancelled")
        await sending.wait()
        task.cancel()
        await asyncio.wait([task])

        assert task.cancelled()
