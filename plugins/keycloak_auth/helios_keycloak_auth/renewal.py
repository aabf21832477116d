"""A cache of a document of the issuer, which is read again when it expires."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from time import monotonic
from typing import Generic, TypeVar

import msgspec
import structlog

from helios_core import BackendUnavailable

log = structlog.stdlib.get_logger()

T = TypeVar("T")

NEVER = float("-inf")


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """When a document is read again."""

    min_interval: timedelta
    """The shortest time between two reads of an expired value, and between two forced reads."""
    max_stale: timedelta
    """How long an expired value stays in use while no newer one can be read."""
    clock: Callable[[], float] = monotonic
    """A monotonic clock in seconds."""


class Renewed(Generic[T]):
    """
    A value of the issuer, read when it is first needed and again when it has expired.

    There is one read at a time, shared by all callers; cancelling a caller does not cancel the
    read. After a failed read, callers get the expired value at once while it may still be used.
    """

    def __init__(
        self, what: str, read: Callable[[], Awaitable[tuple[T, timedelta]]], renewal: Renewal
    ) -> None:
        self._what = what
        self._read = read
        self._clock = renewal.clock
        self._interval = renewal.min_interval.total_seconds()
        self._max_stale = renewal.max_stale.total_seconds()
        self._value: T | None = None
        self._fresh_until = self._aged_at = self._forced_at = NEVER
        self._failure: BackendUnavailable | None = None
        self._reading: asyncio.Task[None] | None = None

    async def current(self) -> T:
        """
        Return the value, an expired one for at most `max_stale` if no newer one can be read.

        Raises:
            BackendUnavailable: There is no value that may be used.
        """
        now = self._clock()
        if self._value is not None and now < self._fresh_until:
            return self._value
        if self._reading is None and now >= self._aged_at + self._interval:
            self._aged_at = now
            self._start()
        if self._reading is not None and (self._failure is None or not self._usable()):
            await asyncio.shield(self._reading)
        if self._value is None or not self._usable():
            raise self._unavailable()
        return self._value

    async def forced(self) -> T:
        """
        Read the value again, unless that was forced less than `min_interval` ago, and return it.

        Raises:
            BackendUnavailable: It cannot be read.
        """
        now = self._clock()
        if self._reading is None and now >= self._forced_at + self._interval:
            self._forced_at = now
            self._start()
        if self._reading is not None:
            await asyncio.shield(self._reading)
        if self._value is None or self._failure is not None:
            raise self._unavailable()
        return self._value

    async def close(self) -> None:
        """Cancel the read that is running, if there is one."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    def _usable(self) -> bool:
        return self._value is not None and self._clock() < self._fresh_until + self._max_stale

    def _start(self) -> None:
        self._reading = asyncio.create_task(self._renew())
        self._reading.add_done_callback(self._ended)

    def _ended(self, _: object) -> None:
        self._reading = None

    async def _renew(self) -> None:
        try:
            value, lifetime = await self._read()
        except BackendUnavailable as error:
            if self._failure is None:
                log.warning("issuer.unavailable", document=self._what, reason=str(error))
            self._failure = error
        else:
            if self._failure is not None:
                log.info("issuer.recovered", document=self._what)
            self._failure = None
            self._value = value
            self._fresh_until = self._clock() + max(lifetime.total_seconds(), self._interval)

    def _unavailable(self) -> BackendUnavailable:
        return BackendUnavailable(f"the issuer's {self._what} cannot be read: {self._failure}")
