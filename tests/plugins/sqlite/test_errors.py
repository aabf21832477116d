"""No error of the driver is ever seen outside, wherever it comes from."""

import sqlite3
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

import helios_sqlite.connections
import helios_sqlite.databases
from helios_core import BackendError, BackendUnavailable, Put
from helios_core.fhir import parse_resource
from helios_core.testing import corpus
from helios_sqlite.databases import rows_of
from helios_sqlite.errors import translated

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
MINUTE = timedelta(minutes=1)


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


class Faults:
    """Fails at one call into the driver, counted from 1; 0 is at none."""

    def __init__(self):
        self.left = 0
        self.error_class = sqlite3.OperationalError

    def call(self):
        self.left -= 1
        if self.left == 0:
            raise self.error_class("canary")


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


def patient(number):
    body = b'{"resourceType":"Patient","id":"p%d"}' % number
    return Put(resource=parse_resource(body, corpus.VERSION))


async def fails_everywhere(faults, operation, check):
    """Fail at each call into the driver in turn, with each class, until none is left to fail."""
    for error_class in CLASSES:
        place = 0
        while True:
            place += 1
            faults.error_class, faults.left = error_class, place
            failed = False
            try:
                await operation()
            except BackendError:
                failed = True
            reached, faults.left = faults.left <= 0, 0
            await check(failed=failed)
            if not reached:
                break


async def test_a_write_fails_whole_wherever_the_driver_fails(faults, provider):
    number = 0

    async def write():
        nonlocal number
        number += 2
        await provider.write(corpus.TENANT, corpus.VERSION, [patient(number), patient(number + 1)])

    async def check(*, failed):
        stored = [
            await provider.get(corpus.type_key("Patient").resource(f"p{n}"))
            for n in (number, number + 1)
        ]
        assert (stored[0] is None) == (stored[1] is None)
        assert failed or stored[0] is not None

    await fails_everywhere(faults, write, check)


@pytest.mark.parametrize("kind", ["get", "plan", "read", "missing"])
async def test_reading_works_again_wherever_the_driver_failed(faults, provider, kind):
    await provider.write(corpus.TENANT, corpus.VERSION, [patient(n) for n in range(20)])
    view = corpus.view(await provider.transaction_time(), corpus.request(types=["Patient"]))
    [shard] = await provider.plan(view, shard_bytes=1_000_000)

    async def read():
        match kind:
            case "get":
                return await provider.get(corpus.type_key("Patient").resource("p1")) is not None
            case "plan":
                return len(await provider.plan(view, shard_bytes=1_000_000)) == 1
            case "missing":
                return not await provider.missing(
                    corpus.type_key("Patient"), ["p1"], at=view.transaction_time
                )
        batches = provider.read(view, shard, batch_bytes=1_000_000)
        return sum([len(batch.lines) + len(batch.damaged) async for batch in batches]) == 20

    async def check(*, failed):
        del failed
        assert await read()

    await fails_everywhere(faults, read, check)


async def test_a_job_is_whole_wherever_the_driver_fails(faults, store):
    number = 0

    async def live():
        nonlocal number
        number += 1
        await store.add(corpus.job(f"job-{number}"), corpus.shards(1), max_active=100_000)
        lease = await store.claim("worker", lease_for=MINUTE, max_attempts=3)
        await store.renew(lease, lease_for=MINUTE, resources_done=1)
        await store.complete(lease, [])
        await store.removable(completed_before=MINUTE, limit=5)
        await store.cancel(corpus.TENANT, f"job-{number}")
        await store.delete(corpus.TENANT, f"job-{number}")

    async def check(*, failed):
        del failed
        while (lease := await store.claim("other", lease_for=MINUTE, max_attempts=3)) is not None:
            await store.complete(lease, [])

    await fails_everywhere(faults, live, check)


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
