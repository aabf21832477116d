"""Run tests that should fail, in a process of their own."""

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

OPTIONS = ["-q", "--tb=no", "--assert=plain", "-rfE", "-pno:randomly", "-pno:cacheprovider"]


def failed_tests(
    path: Path, suites: dict[str, type], *, options: Sequence[str] = ()
) -> dict[str, set[str]]:
    """Run what each suite of a file says catches it, and give what did fail by suite."""
    tests = [f"{path}::{name}::{test}" for name in suites for test in suites[name].caught_by]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, *options, *tests],
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
