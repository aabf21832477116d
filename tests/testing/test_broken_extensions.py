"""
Every broken extension is caught by the tests that name its clause.

The modules of `broken_extensions` hold extensions that are wrong on purpose, each followed by the
suite that it is held to. They are not collected with the other tests: here they are run, and each
has to fail the tests in its `caught_by`.
"""

import pytest

from helios_core.testing import (
    CommandSuite,
    FileAuthorizerSuite,
    HealthCheckSuite,
    ObserverSuite,
    RouteSuite,
    TokenVerifierSuite,
    TransformSuite,
)
from tests.testing import broken_extensions
from tests.testing.caught import broken_suites, failed_tests

BROKEN = broken_suites(broken_extensions)
SUITES = [
    CommandSuite,
    FileAuthorizerSuite,
    HealthCheckSuite,
    ObserverSuite,
    RouteSuite,
    TokenVerifierSuite,
    TransformSuite,
]
OF_EVERY_SUITE = {
    "test_waivers_are_printed",
    "test_the_server_takes_the_descriptor",
    "test_exactly_the_claimed_powers_are_present",
}


@pytest.fixture(scope="module")
def failed():
    return failed_tests(BROKEN)


@pytest.mark.parametrize("suite", BROKEN, ids=lambda suite: suite.__name__)
def test_a_broken_extension_is_caught_by_the_test_of_its_clause(suite, failed):
    assert failed[suite] == set(suite.caught_by)


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.__name__)
def test_every_test_of_a_suite_catches_a_broken_extension(suite):
    tests = {name for name in dir(suite) if name.startswith("test_")}

    caught = {name for broken in BROKEN if issubclass(broken, suite) for name in broken.caught_by}

    assert tests - caught <= OF_EVERY_SUITE


def test_what_every_suite_has_catches_a_broken_extension_in_one_of_them():
    caught = {name for broken in BROKEN for name in broken.caught_by}

    assert OF_EVERY_SUITE - caught == {"test_waivers_are_printed"}
