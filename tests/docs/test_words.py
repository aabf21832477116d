"""The words of the code: what docstrings begin with, and one name for one class."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = sorted(ROOT.glob("helios_core/**/*.py"))
PLUGINS = sorted(ROOT.glob("plugins/*/helios_*/**/*.py"))
TESTS = sorted(ROOT.glob("tests/**/*.py"))
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/*.md")]
    if page.name != "CHANGELOG.md" and page.parent.name != "decisions"
)
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
OTHER_VERBS = re.compile(r"(Give|Tell|Say)s?\b|TODO")
RETIRED = re.compile(
    r"thousand million|\bdoors?\b|\btold in words\b|\bunderstood\b", re.IGNORECASE
)

NAMED = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
RETIRED_NAMES = re.compile(
    r"(^|_)(answer(s|ed|ing)?|ask(s|ed|ing)?|doors?|floods?|keeper|sink|spools?|tells?|told"
    r"|understood)(_|$)"
)
"""Words of names for which the field has others: respond, request, route, report and so on."""


def in_repository(path):
    return path.relative_to(ROOT).as_posix()


def documented():
    """Yield every docstring of the core, of the plugins and of tests, with the file it is in."""
    for source in [*CORE, *PLUGINS, *TESTS]:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, DOCUMENTED):
                yield in_repository(source), ast.get_docstring(node) or ""


def test_docstrings_begin_with_the_verbs_of_the_field():
    assert [
        f"{source}: {text.splitlines()[0]}"
        for source, text in documented()
        if OTHER_VERBS.match(text)
    ] == []


def test_functions_classes_and_modules_are_named_in_the_words_of_the_field():
    """But for the tests of suites, whose names are sentences."""
    named = [(source, source.stem) for source in [*CORE, *PLUGINS]]
    named += [
        (source, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name).lower())
        for source in [*CORE, *PLUGINS]
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, NAMED) and not node.name.startswith("test_")
    ]

    assert [
        f"{in_repository(source)}: {name}" for source, name in named if RETIRED_NAMES.search(name)
    ] == []


def test_no_two_public_classes_of_the_core_share_a_name():
    modules = defaultdict(list)
    for source in CORE:
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules[node.name].append(in_repository(source))

    assert {name: found for name, found in modules.items() if len(found) > 1} == {}


@pytest.mark.parametrize("page", PAGES, ids=in_repository)
def test_pages_are_written_in_the_words_of_the_field(page):
    assert RETIRED.findall(page.read_text(encoding="utf-8")) == []
