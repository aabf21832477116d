import pytest

from helios_core.testing import ContractSuite

pytest_plugins = ["pytester"]


class Promises(ContractSuite):
    async def test_a_promise_is_kept(self, subject):
        assert subject


def test_a_replaced_test_needs_a_reason():
    with pytest.raises(TypeError, match="replaces test_a_promise_is_kept without a reason"):
        type("TestDisarmed", (Promises,), {"test_a_promise_is_kept": lambda _: None})


def test_a_test_set_to_none_needs_a_reason():
    with pytest.raises(TypeError, match="test_a_promise_is_kept"):
        type("TestDisarmed", (Promises,), {"test_a_promise_is_kept": None})


def test_a_test_replaced_by_a_mixin_needs_a_reason():
    mixin = type("Mixin", (), {"test_a_promise_is_kept": lambda _: None})

    with pytest.raises(TypeError, match="test_a_promise_is_kept"):
        type("TestDisarmed", (mixin, Promises), {})


def test_an_empty_reason_is_no_reason():
    body = {
        "test_a_promise_is_kept": lambda _: None,
        "waivers": {"test_a_promise_is_kept": " "},
    }

    with pytest.raises(TypeError, match="without a reason"):
        type("TestDisarmed", (Promises,), body)


def test_a_waiver_of_a_test_that_is_not_replaced_is_refused():
    with pytest.raises(TypeError, match="waives test_gone, which it does not replace"):
        type("TestStale", (Promises,), {"waivers": {"test_gone": "it is slow"}})


def test_a_waiver_is_printed(pytester):
    pytester.makepyfile(
        """
        import pytest
        from helios_core.testing import ContractSuite

        class Promises(ContractSuite):
            async def test_a_promise_is_kept(self, subject):
                assert subject

        class TestWaiver(Promises):
            waivers = {"test_a_promise_is_kept": "the reason given"}

            @pytest.fixture
            def subject(self):
                return object()

            async def test_a_promise_is_kept(self, subject):
                assert subject is not None
        """
    )

    run = pytester.runpytest_subprocess("-o", "asyncio_mode=auto")

    run.assert_outcomes(passed=3)
    run.stdout.fnmatch_lines(["*waived: TestWaiver.test_a_promise_is_kept: the reason given*"])


def test_an_unclaimed_power_is_skipped_by_name():
    with pytest.raises(pytest.skip.Exception, match="does not claim Promises"):
        Promises().needs(Promises)
