"""Every broken backend is caught by the tests that name its clause."""

import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from helios_core.testing import DataProviderSuite, JobStoreSuite
from tests.testing import broken_data_providers, broken_job_stores

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
    """Run the tests that should fail, in a process of their own."""
    path = Path(module.__file__)
    tests = [
        f"{path}::{name}::{test}"
        for name, suite in _broken(module).items()
        for test in suite.caught_by
    ]
    options = [
        "-q",
        "--tb=no",
        "--assert=plain",
        "-rfE",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
    ]
    options.append("--hypothesis-profile=broken")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=path.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    failed = defaultdict(set)
    for suite, test in re.findall(r"^FAILED \S+::(\w+)::(\w+)", run.stdout, re.MULTILINE):
        failed[suite].add(test)
    return failed


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
