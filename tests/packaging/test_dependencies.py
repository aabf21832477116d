"""Distributions require what they import, and nothing else; every version is pinned."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.wheels import PROJECTS, ROOT, read_project

OURS = {read_project(project)["name"] for project in PROJECTS}
OF_MODULES = packages_distributions()
OF_PYTEST = {"pytest-asyncio"}
"""What pytest imports by itself."""


def third_party(folder: Path) -> set[str]:
    """Return the distributions whose modules a package imports, without ours."""
    modules = set[str]()
    for source in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(str(node.module).partition(".")[0])
    return {
        canonicalize_name(OF_MODULES[module][0])
        for module in modules - sys.stdlib_module_names
        if not module.startswith("helios_")
    }


def required(*lists: list[str]) -> set[str]:
    """Return the distributions in lists of requirements, without ours."""
    names = {canonicalize_name(Requirement(text).name) for texts in lists for text in texts}
    return names - OURS


@pytest.mark.parametrize("project", PROJECTS[1:], ids=lambda project: project.name)
def test_a_plugin_requires_what_it_imports_and_nothing_else(project):
    [package] = project.glob("helios_*")

    assert required(read_project(project)["dependencies"]) == third_party(package)


def test_the_core_requires_what_it_imports_and_nothing_else():
    project, core = read_project(ROOT), ROOT / "helios_core"
    extras = project["optional-dependencies"]
    needed = required(project["dependencies"])
    apart = third_party(core / "client") | third_party(core / "testing")

    assert third_party(core) - apart <= needed
    assert needed <= third_party(core)
    assert required(extras["client"]) == third_party(core / "client") - needed
    assert required(extras["testing"]) == (third_party(core / "testing") - needed) | OF_PYTEST


def test_every_version_that_is_installed_is_pinned():
    pinned = {
        canonicalize_name(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    development = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]

    assert needed_by({(name, "") for name in OURS} | set(named(development))) - OURS <= pinned


def named(requirements: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the distributions and extras that requirements name."""
    for requirement in map(Requirement, requirements):
        yield from ((requirement.name, extra) for extra in {"", *requirement.extras})


def needed_by(wanted: set[tuple[str, str]]) -> set[str]:
    """Return what distributions with their extras need on this machine, directly or by others."""
    known, pending = set[tuple[str, str]](), wanted
    while pending:
        known |= pending
        pending = {
            found
            for name, extra in pending
            for text in requires(name) or ()
            if (marker := Requirement(text).marker) is None or marker.evaluate({"extra": extra})
            for found in named([text])
        } - known
    return {canonicalize_name(name) for name, _ in known}
