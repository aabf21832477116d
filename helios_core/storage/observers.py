"""Observers of jobs: each has a queue of its own, so that none holds up anything else."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog

from helios_core.model.jobs import Job
from helios_core.storage.extensions import Observer
from helios_core.storage.isolation import (
    Overdue,
    abandon,
    call_within,
    frames_of,
    reason_for_log,
    start_thread,
)

MAX_WAITING = 1000
"""How many jobs wait for one observer at most; more are dropped."""

log = structlog.stdlib.get_logger()


class JobAnnouncer:
    """Passes jobs to the observers of a process."""

    def __init__(self) -> None:
        self._queues = list["_ObserverQueue"]()

    def announce(self, job: Job) -> None:
        """Pass a job to every observer, and return without waiting for any of them."""
        for queue in self._queues:
            queue.put(job)

    @asynccontextmanager
    async def observed_by(
        self, plugin: str, observer: Observer, *, time_limit: timedelta, drain: timedelta
    ) -> AsyncIterator[None]:
        """Pass jobs to an observer within the context, whose end waits up to `drain` for calls."""
        queue = _ObserverQueue(plugin, observer, time_limit)
        self._queues.append(queue)
        try:
            yield
        finally:
            self._queues.remove(queue)
            await queue.close(drain)


class _ObserverQueue:
    """The jobs that wait for one observer, and the task that calls it for one at a time."""

    def __init__(self, plugin: str, observer: Observer, time_limit: timedelta) -> None:
        self._plugin = plugin
        self._observer = observer
        self._time_limit = time_limit
        self._waiting = asyncio.Queue[Job | None](MAX_WAITING + 1)  # one more for the end marker
        self._calling = asyncio.ensure_future(self._call_for_each())

    def put(self, job: Job) -> None:
        if self._waiting.qsize() >= MAX_WAITING:
            log.error("observer.overrun", plugin=self._plugin, job_id=job.id)
        else:
            self._waiting.put_nowait(job)

    async def close(self, drain: timedelta) -> None:
        """Wait for the calls to end, but not longer than `drain`."""
        self._waiting.put_nowait(None)
        await asyncio.wait({self._calling}, timeout=drain.total_seconds())
        if not self._calling.done():
            left = self._waiting.qsize()  # the current job instead of the end marker
            log.error("observer.undelivered", plugin=self._plugin, jobs=left)
        abandon(self._calling)

    async def _call_for_each(self) -> None:
        while (job := await self._waiting.get()) is not None:
            try:
                await self._call(job)
            except Exception as error:  # noqa: BLE001  a foreign observer may raise anything
                log.error(  # noqa: TRY400  without the message of a foreign error
                    "observer.failed",
                    plugin=self._plugin,
                    job_id=job.id,
                    error=type(error).__name__,
                    reason=reason_for_log(error),
                    where=frames_of(error),
                )

    async def _call(self, job: Job) -> None:
        # An asynchronous observer returns an awaitable at once, so that a thread costs little.
        thread: asyncio.Future[object] = start_thread(self._observer, job)
        try:
            await call_within(self._time_limit, _end_of, thread)
        except Overdue as overdue:
            await self._wait_for(job, overdue.call, thread)

    async def _wait_for(self, job: Job, *running: "asyncio.Future[object]") -> None:
        """Wait until a late call has ended: threads cannot be stopped, and calls never overlap."""
        log.error(
            "observer.overdue",
            plugin=self._plugin,
            job_id=job.id,
            timeout_seconds=self._time_limit.total_seconds(),
        )
        await asyncio.wait(running)


async def _end_of(thread: "asyncio.Future[object]") -> None:
    result = await asyncio.shield(thread)
    if inspect.isawaitable(result):
        await result
