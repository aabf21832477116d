"""Run the health checks of plugins: all at once, each for a limited time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from helios_core.storage.backends import OpenedHealthChecks
from helios_core.storage.isolation import Overdue, call_within, frames_of, reason_for_log

log = structlog.stdlib.get_logger()


class HealthChecks:
    """The health checks of all plugins."""

    def __init__(self, opened: Sequence[OpenedHealthChecks]) -> None:
        self._checks = [
            _Check(own, name, check) for own in opened for name, check in own.checks.items()
        ]

    @property
    def names(self) -> list[str]:
        """The names of the checks, as `plugin/check`."""
        return [check.name for check in self._checks]

    async def failing(self) -> list[str]:
        """Run every check, and return the names of those that fail or take too long."""
        passed = await asyncio.gather(*(check.passes() for check in self._checks))
        return [check.name for check, ok in zip(self._checks, passed, strict=True) if not ok]


class _Check:
    """One check; it runs once at a time, and concurrent callers share its result."""

    def __init__(
        self, opened: OpenedHealthChecks, name: str, check: Callable[[], Awaitable[object]]
    ) -> None:
        self.name = f"{opened.plugin}/{name}"
        self._check = check
        self._time_limit = opened.time_limit
        self._latest: asyncio.Future[bool] | None = None
        self._running: asyncio.Future[object] | None = None

    async def passes(self) -> bool:
        if self._latest is None or self._latest.done():
            self._latest = asyncio.ensure_future(self._run())
        # The first caller may be cancelled; the others still need the result.
        return await asyncio.shield(self._latest)

    async def _run(self) -> bool:
        if self._running is not None and not self._running.done():
            # The last run is overdue and ignores its cancellation; another would do no better.
            self._fail(error="Overdue", reason="", where=[])
            return False
        try:
            await call_within(self._time_limit, self._check)
        except Overdue as overdue:
            self._running = overdue.call
            self._fail(error="Overdue", reason="", where=[])
        except Exception as error:  # noqa: BLE001  a foreign check may raise anything
            self._fail(
                error=type(error).__name__, reason=reason_for_log(error), where=frames_of(error)
            )
        else:
            return True
        return False

    def _fail(self, *, error: str, reason: str, where: list[str]) -> None:
        log.error("check.failed", check=self.name, error=error, reason=reason, where=where)
