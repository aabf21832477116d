"""Run tests that should fail, in a process of their own."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
OPTIONS = ["-q", "--tb=no", "--assert=plain", "-rfE", "-pno:randomly", "-pno:cacheprovider"]


def failed_tests(suites: Sequence[type], *, options: Sequence[str] = ()) -> dict[type, set[str]]:
    """Run what each suite says catches it, and give what did fail by suite."""
    places = {suite: _place(suite) for suite in suites}
    tests = [f"{places[suite]}::{test}" for suite in suites for test in suite.caught_by]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, *options, *tests],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    failed = re.findall(r"^FAILED (\S+::\w+)::(\w+)", run.stdout, re.MULTILINE)
    return {
        suite: {test for found, test in failed if found == place}
        for suite, place in places.items()
    }


def _place(suite: type) -> str:
    return f"{Path(inspect.getfile(suite)).relative_to(ROOT).as_posix()}::{suite.__name__}"


def broken_suites(place: ModuleType) -> list[type]:
    """Return the suites of a module of broken things, or of a folder of such modules."""
    if not hasattr(place, "__path__"):
        return [suite for name, suite in vars(place).items() if name.startswith("Test")]
    modules = pkgutil.iter_modules(place.__path__, f"{place.__name__}.")
    return [
        suite
        for module in modules
        if not module.name.endswith(".conftest")
        for suite in broken_suites(importlib.import_module(module.name))
    ]
