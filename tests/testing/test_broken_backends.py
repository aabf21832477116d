"""Every broken backend is caught by the tests that name its clause."""

from functools import cache
from pathlib import Path

import pytest

from helios_core.testing import DataProviderSuite, JobStoreSuite
from tests.testing import broken_data_providers, broken_job_stores
from tests.testing.caught import failed_tests

NOT_OF_THE_BACKEND = {"test_waivers_are_printed", "test_exactly_the_claimed_powers_are_present"}


def _broken(module):
    return {name: suite for name, suite in vars(module).items() if name.startswith("Test")}


CASES = [
    pytest.param(module, name, id=name)
    for module in (broken_data_providers, broken_job_stores)
    for name in _broken(module)
]


@cache
def _failed(module):
    options = ["--hypothesis-profile=broken"]
    return failed_tests(Path(module.__file__), _broken(module), options=options)


@pytest.mark.parametrize(("module", "name"), CASES)
def test_a_broken_backend_is_caught_by_the_tests_of_its_clause(module, name):
    assert _failed(module)[name] == set(_broken(module)[name].caught_by)


@pytest.mark.parametrize(
    ("suite", "module"),
    [(DataProviderSuite, broken_data_providers), (JobStoreSuite, broken_job_stores)],
)
def test_every_test_of_a_suite_catches_a_broken_backend(suite, module):
    tests = {name for name in dir(suite) if name.startswith("test_")}

    caught = {test for broken in _broken(module).values() for test in broken.caught_by}

    assert caught == tests - NOT_OF_THE_BACKEND
