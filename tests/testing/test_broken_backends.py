"""
Every broken backend is caught by the tests that name its clause.

The modules of `broken_data_providers`, `broken_job_stores` and `broken_search_indexes` hold
backends that are wrong on purpose, each followed by the suite that it is held to. They are not
collected with the other tests: here they are run, and each has to fail the tests in its
`caught_by`.
"""

from functools import cache

import pytest

from helios_core.testing import DataProviderSuite, JobStoreSuite, SearchIndexSuite
from tests.testing import broken_data_providers, broken_job_stores, broken_search_indexes
from tests.testing.caught import broken_suites, failed_tests

FAMILIES = {
    DataProviderSuite: broken_data_providers,
    JobStoreSuite: broken_job_stores,
    SearchIndexSuite: broken_search_indexes,
}
NOT_OF_THE_BACKEND = {"test_waivers_are_printed", "test_exactly_the_claimed_powers_are_present"}


@cache
def _broken(family):
    return broken_suites(FAMILIES[family])


CASES = [
    pytest.param(family, suite, id=suite.__name__)
    for family in FAMILIES
    for suite in _broken(family)
]


@cache
def _failed(family):
    return failed_tests(_broken(family), options=["--hypothesis-profile=broken"])


@pytest.mark.parametrize(("family", "suite"), CASES)
def test_a_broken_backend_is_caught_by_the_tests_of_its_clause(family, suite):
    assert _failed(family)[suite] == set(suite.caught_by)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_test_of_a_suite_catches_a_broken_backend(family):
    tests = {name for name in dir(family) if name.startswith("test_")}

    caught = {test for suite in _broken(family) for test in suite.caught_by}

    assert caught == tests - NOT_OF_THE_BACKEND
