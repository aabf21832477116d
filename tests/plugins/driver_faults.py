"""What holds of every store wherever its driver fails: nothing half done, and it works again."""

import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Protocol

from helios_core import BackendError, DataProvider, JobNotFound, JobStore
from helios_core.testing import corpus, write

MINUTE = timedelta(minutes=1)

Operation = Callable[[], Awaitable[object]]


class Check(Protocol):
    """Look at a store after an operation, which may have failed."""

    async def __call__(self, *, failed: bool) -> None: ...


FailEverywhere = Callable[[Operation, Check], Awaitable[None]]
"""Repeat an operation, and fail at another place of the driver each time."""


class Faults:
    """Fails at one call into the driver, counted from 1; 0 is at none."""

    def __init__(self) -> None:
        self._left = 0
        self._error: Exception = RuntimeError()

    def call(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise self._error

    async def fail_everywhere(self, error: Exception, operation: Operation, check: Check) -> None:
        """Fail at each call into the driver in turn, until none is left to fail."""
        texts = list[str]()
        for place in itertools.count(1):
            self._error, self._left = error, place
            failed = False
            try:
                await operation()
            except BackendError as caught:
                failed = True
                texts.append(str(caught))
            reached, self._left = self._left <= 0, 0
            await check(failed=failed)
            if not reached:
                assert place > 1, "the driver is never called"
                assert "canary" not in "".join(texts)
                return


async def writes_fail_whole(provider: DataProvider, fail_everywhere: FailEverywhere) -> None:
    number = 0

    async def store() -> None:
        nonlocal number
        number += 2
        await write(provider, *(corpus.patient(f"p{n}") for n in (number, number + 1)))

    async def check(*, failed: bool) -> None:
        stored = [
            await provider.get(corpus.type_key("Patient").resource(f"p{n}"))
            for n in (number, number + 1)
        ]
        assert (stored[0] is None) == (stored[1] is None)
        assert failed or stored[0] is not None

    await fail_everywhere(store, check)


async def reading_works_again(provider: DataProvider, fail_everywhere: FailEverywhere) -> None:
    await write(provider, *(corpus.patient(f"p{n}") for n in range(20)))
    view = corpus.view(await provider.transaction_time(), corpus.request(types=["Patient"]))

    async def read() -> int:
        key = corpus.type_key("Patient")
        assert await provider.get(key.resource("p1")) is not None
        assert await provider.missing(key, ["p1"], at=view.transaction_time) == set()
        [shard] = await provider.plan(view, shard_bytes=1_000_000)
        batches = provider.read(view, shard, batch_bytes=1_000_000)
        return sum([len(batch.lines) + len(batch.damaged) async for batch in batches])

    async def check(*, failed: bool) -> None:
        del failed
        assert await read() == 20

    await fail_everywhere(read, check)


async def end_whole_job(store: JobStore, name: str, *, failed: bool) -> None:
    """End what has remained of a job after its life has failed: it has all of each shard."""
    assert failed or not await store.exists(corpus.TENANT, name)
    with suppress(JobNotFound):
        done = (await store.progress(corpus.TENANT, name)).shards_done
        assert len(await store.parts(corpus.TENANT, name)) == done
        assert [each async for each in store.notes(corpus.TENANT, name)] == [b"noted"] * done
        await store.cancel(corpus.TENANT, name)
    await store.delete(corpus.TENANT, name)


async def jobs_stay_whole(store: JobStore, fail_everywhere: FailEverywhere) -> None:
    number = 0

    async def live() -> None:
        nonlocal number
        number += 1
        name = f"job-{number}"
        await store.add(corpus.job(name), corpus.shards(1), max_active=100_000)
        lease = await store.claim("worker", lease_for=MINUTE, max_attempts=3)
        assert lease is not None
        await store.renew(lease, lease_for=MINUTE, resources_done=1)
        await store.complete(lease, [corpus.part(lease)], notes=b"noted")
        await store.removable(completed_before=MINUTE, limit=5)
        await store.cancel(corpus.TENANT, name)
        await store.delete(corpus.TENANT, name)

    async def check(*, failed: bool) -> None:
        await end_whole_job(store, f"job-{number}", failed=failed)

    await fail_everywhere(live, check)
