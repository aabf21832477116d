"""The contract suite of health checks: clauses H1 to H4 of `HealthExtension`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

import pytest

from helios_core import Backends, HealthExtension
from helios_core.config.extensions import SelectedExtension, open_health_checks
from helios_core.storage.isolation import call_within
from helios_core.testing.extensions.contract import ExtensionSuite

PATIENCE_SECONDS = 10

Checks = Mapping[str, Callable[[], Awaitable[object]]]


class HealthCheckSuite(ExtensionSuite):
    """
    Tests that all health checks of a plugin pass.

    A subclass implements the fixture `extension`, its `settings`, and `make_unwell`. By the time
    `subject` is opened, what it checks must work.
    """

    hook = "helios_health_checks"

    async def make_unwell(self) -> None:
        """Break something that is checked, so that at least one check must fail."""
        raise NotImplementedError(f"{type(self).__name__} needs `make_unwell`")

    @pytest.fixture
    async def subject(
        self, selected: SelectedExtension, backends: Backends
    ) -> AsyncIterator[Checks]:
        """Open the checks."""
        extension = selected.extension
        assert isinstance(extension, HealthExtension)
        async with extension.open(selected.settings, backends) as checks:
            yield checks

    async def test_the_server_takes_the_checks(
        self, selected: SelectedExtension, backends: Backends, stack: AsyncExitStack
    ) -> None:
        """H1: there is at least one, each has a name, and each is asynchronous."""
        [opened] = await open_health_checks(stack, [selected], backends)

        assert opened.checks

    async def test_checks_pass_when_all_is_well(
        self, subject: Checks, extension: HealthExtension
    ) -> None:
        """H2: each within its time limit."""
        for check in subject.values():
            await call_within(extension.time_limit, check)

    async def test_a_check_fails_when_something_is_wrong(
        self, subject: Checks, extension: HealthExtension
    ) -> None:
        """H2: a check that never fails is useless."""
        await self.make_unwell()

        failures = 0
        for check in subject.values():
            try:
                await call_within(extension.time_limit, check)
            except Exception:  # noqa: BLE001  however it fails
                failures += 1

        assert failures

    async def test_a_check_ends_when_it_is_cancelled(self, subject: Checks) -> None:
        """H3: late checks are cancelled, and must not pile up."""
        for name, check in subject.items():
            running = asyncio.ensure_future(check())
            await asyncio.sleep(0)
            running.cancel()

            await asyncio.wait({running}, timeout=PATIENCE_SECONDS)

            assert running.done(), f"{name} goes on after it was cancelled"

    async def test_a_check_runs_again(self, subject: Checks, extension: HealthExtension) -> None:
        """H4: after it has passed, and after it was cancelled."""
        for check in subject.values():
            running = asyncio.ensure_future(check())
            await asyncio.sleep(0)
            running.cancel()
            await asyncio.wait({running}, timeout=PATIENCE_SECONDS)

            for _ in range(3):
                await call_within(extension.time_limit, check)
