"""Health checks that are wrong on purpose."""

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
        return {"line": extensions.ignore_cancellation}


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
