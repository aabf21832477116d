"""P1: an instant is handed out only when no write can still appear before it."""

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import timedelta

import msgspec
import pytest

from helios_core import BackendUnavailable, Put
from helios_core.fhir import to_stamp
from helios_core.testing import corpus, take_snapshot, view_everything, write
from helios_postgres import open_data_provider
from tests.pace import scaled
from tests.plugins.postgres.connecting import connected, held_after_its_stamp


@pytest.fixture
async def provider(settings):
    """One whose kick-offs wait for writes as long as it takes."""
    patient = msgspec.structs.replace(settings, settle_timeout=timedelta(hours=1))
    async with open_data_provider(patient) as provider:
        yield provider


@pytest.fixture
async def impatient(settings):
    hasty = msgspec.structs.replace(settings, settle_timeout=timedelta(seconds=1))
    async with open_data_provider(hasty) as provider:
        yield provider


@asynccontextmanager
async def a_stamped_write(provider, settings):
    """Hold a write of somebody else open, after it has its stamp and before it is committed."""
    async with connected(settings) as connection, connection.transaction():
        keys = provider._clock._keys
        yield await connection.fetchval("SELECT write_stamp($1, $2)", *keys)


async def test_a_kick_off_waits_for_a_write_that_is_under_way(provider, settings):
    async with a_stamped_write(provider, settings) as stamp:
        waiting = asyncio.create_task(provider.transaction_time())
        await asyncio.sleep(0.2)
        assert not waiting.done()

    assert to_stamp(await waiting) > stamp


async def test_a_write_held_open_across_the_kick_off_is_exported(provider):
    """The write is our own: it is stopped between its stamp and its commit."""
    await write(provider, corpus.patient("before"))
    async with held_after_its_stamp(provider, write(provider, corpus.patient("held"))):
        exporting = asyncio.create_task(view_everything(provider))
        await asyncio.sleep(0.15)
        assert not exporting.done()

    shown = await exporting
    await write(provider, corpus.patient("after"))
    assert (await take_snapshot(provider, shown)).names == ["Patient/before", "Patient/held"]


async def test_a_stuck_write_gives_a_refusal_within_the_bound(impatient, settings):
    async with a_stamped_write(impatient, settings):
        started = time.monotonic()

        with pytest.raises(BackendUnavailable, match="HFS_POSTGRES_SETTLE_TIMEOUT"):
            await impatient.transaction_time()

        assert time.monotonic() - started < scaled(2)


async def test_writes_go_on_while_a_kick_off_waits_for_a_stuck_one(provider, settings):
    """Those that queue behind the kick-off wait for a try of it, not for all of them."""
    async with a_stamped_write(provider, settings):
        waiting = asyncio.create_task(provider.transaction_time())
        for number in range(3):
            await write(provider, corpus.patient(f"p{number}"))
        assert not waiting.done()

    await waiting


async def test_an_instant_handed_out_is_before_every_later_write(provider, settings):
    """Also of another server, and though the clock of the database went back in between."""
    async with open_data_provider(settings) as other:
        instant = await provider.transaction_time()
        async with provider._database.connection() as connection:
            await connection.execute(
                "CREATE OR REPLACE FUNCTION wall_stamp() RETURNS bigint LANGUAGE sql"
                " AS 'SELECT 1000000::bigint'"
            )

        [applied] = await write(other, corpus.patient("p1"))
        later = await provider.transaction_time()

    assert instant < applied.last_updated < later


async def test_no_two_writes_carry_one_instant(provider, settings):
    async with open_data_provider(settings) as other, asyncio.TaskGroup() as group:
        writes = [
            group.create_task(write((provider, other)[number % 2], corpus.patient(f"p{number}")))
            for number in range(60)
        ]

    assert len({task.result()[0].last_updated for task in writes}) == 60


async def test_a_cancelled_write_holds_up_nobody(provider):
    """Whatever it held goes with its transaction."""
    held = asyncio.Event()

    async def for_ever(connection):
        held.set()
        await asyncio.Event().wait()

    stamp, provider._clock.write_stamp = provider._clock.write_stamp, for_ever
    writing = asyncio.create_task(
        provider.write(corpus.TENANT, corpus.VERSION, [Put(resource=corpus.patient("p1"))])
    )
    await held.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    provider._clock.write_stamp = stamp

    await write(provider, corpus.patient("p1"))

    assert (await take_snapshot(provider, await view_everything(provider))).versions == {
        "Patient/p1": 1
    }
