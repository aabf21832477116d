import importlib.util
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from helios_core.testing import OutputStoreSuite

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
    tests = [f"{BROKEN}::{name}::{test}" for name in SUITES for test in SUITES[name].caught_by]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    failed = defaultdict(set)
    for suite, test in re.findall(r"^FAILED \S+::(\w+)::(\w+)", run.stdout, re.MULTILINE):
        failed[suite].add(test)
    return failed


@pytest.mark.parametrize("suite", SUITES)
def test_a_broken_store_is_caught_by_the_test_of_its_clause(suite, failed):
    assert failed[suite] == set(SUITES[suite].caught_by)


def test_every_test_of_the_suite_catches_a_broken_store():
    tests = {name for name in dir(OutputStoreSuite) if name.startswith("test_")}

    caught = set().union(*(suite.caught_by for suite in SUITES.values()))

    assert caught == tests - NOT_OF_THE_STORE
