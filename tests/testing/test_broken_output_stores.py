import pytest

from helios_core.testing import OutputStoreSuite
from tests.testing import broken_output_stores
from tests.testing.caught import broken_suites, failed_tests

SUITES = broken_suites(broken_output_stores)
NOT_OF_THE_STORE = {"test_waivers_are_printed"}


@pytest.fixture(scope="module")
def failed():
    return failed_tests(SUITES)


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.__name__)
def test_a_broken_store_is_caught_by_the_test_of_its_clause(suite, failed):
    assert failed[suite] == set(suite.caught_by)


def test_every_test_of_the_suite_catches_a_broken_store():
    tests = {name for name in dir(OutputStoreSuite) if name.startswith("test_")}

    caught = set().union(*(suite.caught_by for suite in SUITES))

    assert caught == tests - NOT_OF_THE_STORE
