"""
What the guide and its clients expect, joined with the tests that prove it.

`make docs` writes the page.
"""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
ROWS = Path(__file__).with_suffix(".toml")
TESTS = (ROOT / "tests", ROOT / "helios_core" / "testing")
ROW_ID = re.compile(r"\b(?:B[234]|SM|TR|LS|RC|RV)-(?:[A-Z]+-)?\d\d\b")

HEAD = """\
# Conformance

What the Bulk Data Access guide asks of a server, and what common clients need, row by row.
Every row has tests, whose docstrings name it, or a reason why it is not followed.

`make docs` writes this page from the rows in `tests/conformance.toml`; a test compares.
"""


class Section(msgspec.Struct, frozen=True):
    """Rows under one heading."""

    title: str
    rows: Mapping[str, str]
    """What is expected, by id."""


class Expectations(msgspec.Struct, frozen=True):
    """All rows, and why some of them are not followed."""

    sections: Mapping[str, Section]
    reasons: Mapping[str, str]

    @property
    def rows(self) -> dict[str, str]:
        """The rows of all sections."""
        return {name: row for each in self.sections.values() for name, row in each.rows.items()}


def expectations() -> Expectations:
    """Return what is committed."""
    return msgspec.convert(tomllib.loads(ROWS.read_text(encoding="utf-8")), Expectations)


@cache
def proofs() -> dict[str, list[str]]:
    """Return, per id, the modules with tests that name it."""
    found = dict[str, set[str]]()
    for module in (path for folder in TESTS for path in folder.rglob("*.py")):
        for name in _named_in(module):
            found.setdefault(name, set()).add(module.relative_to(ROOT).as_posix())
    return {name: sorted(modules) for name, modules in found.items()}


def _named_in(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("test_"):
            yield from ROW_ID.findall(ast.get_docstring(node) or "")


def page() -> str:
    """Return the page."""
    expected, proven = expectations(), proofs()
    parts = [HEAD]
    for section in expected.sections.values():
        parts.append(
            f"\n## {section.title}\n\n| row | expectation | proof, or reason |\n|---|---|---|\n"
        )
        for name, row in section.rows.items():
            tests = ", ".join(f"[{_short(path)}](../../{path})" for path in proven.get(name, ()))
            parts.append(f"| {name} | {row} | {tests or expected.reasons[name]} |\n")
    return "".join(parts)


def _short(path: str) -> str:
    return path.removeprefix("tests/").removesuffix(".py").replace("/test_", "/").replace("_", " ")
