"""No error of the driver is ever seen outside, wherever it comes from."""

import sqlite3
from functools import partial

import pytest
from structlog.testing import capture_logs

import helios_sqlite.connections
import helios_sqlite.databases
from helios_core import BackendError, BackendUnavailable
from helios_core.testing import corpus
from helios_sqlite.databases import rows_of
from helios_sqlite.errors import translated
from tests.plugins.driver_faults import (
    Faults,
    jobs_stay_whole,
    reading_works_again,
    writes_fail_whole,
)

CLASSES = sorted(
    {c for c in vars(sqlite3).values() if isinstance(c, type) and issubclass(c, Exception)},
    key=lambda c: c.__name__,
)
CODES = sorted(
    {
        value
        for name, value in vars(sqlite3).items()
        if name.startswith("SQLITE_") and isinstance(value, int) and 0 < value < 29
    }
)


def with_code(code):
    error = sqlite3.OperationalError("canary")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    "error", [*(c("canary") for c in CLASSES), *map(with_code, CODES)], ids=repr
)
def test_no_error_of_the_driver_passes_as_it_is(error):
    with pytest.raises(BackendError) as caught, translated():
        raise error

    damage = getattr(error, "sqlite_errorcode", 0) in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    )
    assert isinstance(caught.value, BackendUnavailable) is not damage
    assert "canary" not in str(caught.value)


@pytest.fixture
def faults(monkeypatch):
    faults = Faults()

    class Faulty(sqlite3.Connection):
        def execute(self, *arguments):
            faults.call()
            return super().execute(*arguments)

        def executemany(self, *arguments):
            faults.call()
            return super().executemany(*arguments)

        def commit(self):
            faults.call()
            super().commit()

        def rollback(self):
            faults.call()
            super().rollback()

    def connect(name):
        return sqlite3.connect(
            name,
            isolation_level=None,
            check_same_thread=False,
            uri=name.startswith("file:"),
            factory=Faulty,
        )

    monkeypatch.setattr(helios_sqlite.connections, "connect", connect)
    monkeypatch.setattr(helios_sqlite.databases, "connect", connect)
    return faults


EVERY_CLASS = pytest.mark.parametrize("error", [c("canary") for c in CLASSES], ids=repr)


@EVERY_CLASS
async def test_a_write_fails_whole_wherever_the_driver_fails(faults, provider, error):
    await writes_fail_whole(provider, partial(faults.fail_everywhere, error))


@EVERY_CLASS
async def test_reading_works_again_wherever_the_driver_failed(faults, provider, error):
    await reading_works_again(provider, partial(faults.fail_everywhere, error))


@EVERY_CLASS
async def test_a_job_is_whole_wherever_the_driver_fails(faults, store, error):
    await jobs_stay_whole(store, partial(faults.fail_everywhere, error))


async def test_a_full_disk_is_logged_with_the_path_of_the_file(store, settings):
    async with store._database.transaction() as connection:
        [(pages,)] = await rows_of(connection, "PRAGMA page_count")
        await rows_of(connection, f"PRAGMA max_page_count = {pages}")

    async def fill():
        for number in range(10_000):
            await store.add(corpus.job(f"job-{number}"), corpus.shards(9), max_active=10_000)

    with capture_logs() as lines, pytest.raises(BackendUnavailable, match="full") as failure:
        await fill()

    [line] = [line for line in lines if line["event"] == "database.failed"]
    assert (line["path"], line["reason"]) == (str(settings.path), "the disk is full")
    assert str(settings.path) not in str(failure.value)
