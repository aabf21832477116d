import importlib.util
from pathlib import Path

import pytest

from helios_core.testing import OutputStoreSuite
from tests.testing.caught import failed_tests

BROKEN = Path(__file__).with_name("broken_output_stores.py")
NOT_OF_THE_STORE = {"test_waivers_are_printed"}


def _suites():
    spec = importlib.util.spec_from_file_location("broken_output_stores", BROKEN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: suite for name, suite in vars(module).items() if name.startswith("Test")}


SUITES = _suites()


@pytest.fixture(scope="module")
def failed():
    return failed_tests(BROKEN, SUITES)


@pytest.mark.parametrize("suite", SUITES)
def test_a_broken_store_is_caught_by_the_test_of_its_clause(suite, failed):
    assert failed[suite] == set(SUITES[suite].caught_by)


def test_every_test_of_the_suite_catches_a_broken_store():
    tests = {name for name in dir(OutputStoreSuite) if name.startswith("test_")}

    caught = set().union(*(suite.caught_by for suite in SUITES.values()))

    assert caught == tests - NOT_OF_THE_STORE
