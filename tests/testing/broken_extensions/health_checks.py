"""Health checks that are wrong on purpose."""

import asyncio
from contextlib import suppress

from tests.testing import extensions


class TestDown(extensions.GoodHealthChecks):
    caught_by = ("test_checks_pass_when_all_is_well", "test_a_check_runs_again")

    def checks(self):
        self.line.up = False
        return super().checks()


class TestBlind(extensions.GoodHealthChecks):
    caught_by = ("test_a_check_fails_when_something_is_wrong",)

    def checks(self):
        return {"line": self.blind}

    async def blind(self):
        with suppress(Exception):
            await self.line.check()


class TestStubborn(extensions.GoodHealthChecks):
    caught_by = ("test_a_check_ends_when_it_is_cancelled",)

    def checks(self):
        return {"line": self.stubborn}

    async def stubborn(self):
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            # Longer than the suite waits, and not for ever: the loop waits for it in the end.
            for _ in range(20):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.1)


class TestOneWay(extensions.GoodHealthChecks):
    caught_by = ("test_a_check_runs_again",)

    def checks(self):
        self.busy = False
        return {"line": self.once}

    async def once(self):
        assert not self.busy
        self.busy = True
        await self.line.check()


class TestNameless(extensions.GoodHealthChecks):
    caught_by = ("test_the_server_takes_the_checks",)

    def checks(self):
        return {"My Line": self.line.check}
