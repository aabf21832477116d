import asyncio
from datetime import timedelta

import structlog
from msgspec import structs

from helios_core import Secret
from helios_postgres import listening
from helios_postgres.listening import listener
from tests.pace import scaled


class Ear:
    """Counts what it hears, and lets one wait for the next."""

    def __init__(self):
        self.count = 0
        self._news = asyncio.Event()

    def __call__(self):
        self.count += 1
        self._news.set()

    async def hears(self):
        await asyncio.wait_for(self._news.wait(), scaled(10))
        self._news.clear()


async def test_who_begins_to_listen_hears_at_once_and_then_what_is_told(settings, raw):
    ear = Ear()

    async with listener(settings, "work", ear):
        await ear.hears()
        await raw.execute("NOTIFY other; NOTIFY work")
        await ear.hears()

    assert ear.count == 2


PULSES = """
SELECT query_start FROM pg_stat_activity WHERE datname = current_database() AND query = 'SELECT 1'
"""


async def test_a_silent_connection_is_asked_and_kept(settings, raw, monkeypatch):
    """Although the response takes longer than it takes until the next question."""
    monkeypatch.setattr(listening, "CHECK_EVERY", timedelta(0))
    ear = Ear()

    with structlog.testing.capture_logs() as logs:
        async with listener(settings, "work", ear):
            await ear.hears()
            pulses = set()
            while len(pulses) < 3 and not logs:
                pulses |= {await raw.fetchval(PULSES)} - {None}
            await raw.execute("NOTIFY work")
            await ear.hears()

    assert ear.count == 2
    assert logs == []


async def test_an_address_that_is_refused_later_on_ends_nothing(settings, monkeypatch):
    monkeypatch.setattr(listening, "RECONNECT", timedelta(milliseconds=10))
    url = settings.database_url.reveal().replace("/helios_", "/gone_")
    moved = structs.replace(settings, database_url=Secret(url))

    with structlog.testing.capture_logs() as logs:
        async with listener(moved, "work", Ear()):
            async with asyncio.timeout(scaled(10)):
                while len(logs) < 2:
                    await asyncio.sleep(0.01)

    assert {log["event"] for log in logs} == {"listener.lost"}


async def test_a_defect_ends_no_listening(settings, monkeypatch):
    monkeypatch.setattr(listening, "RECONNECT", timedelta(milliseconds=10))
    calls = asyncio.Semaphore(0)

    def defect():
        calls.release()
        raise LookupError

    with structlog.testing.capture_logs() as logs:
        async with listener(settings, "work", defect):
            for _ in range(2):
                await calls.acquire()

    assert "LookupError" in {log["reason"] for log in logs}


async def test_no_connection_stays_when_the_listener_is_cancelled(settings, raw):
    ear = Ear()

    async def listen():
        async with listener(settings, "cancelled_work", ear):
            await asyncio.Event().wait()

    task = asyncio.create_task(listen())
    await ear.hears()

    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    query = "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'LISTEN%cancelled_work%'"
    async with asyncio.timeout(scaled(5)):
        while await raw.fetchval(query):
            await asyncio.sleep(0.02)
