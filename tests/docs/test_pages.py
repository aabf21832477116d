"""Generated pages are as the code makes them, and the page of the public API has all of it."""

import ast
import importlib
import re
from itertools import pairwise

import pytest

from helios_core.config.plugins import Plugin, load_all_plugins
from tests import pages, public_api
from tests.config.conftest import install

__all__ = ["install"]

NAMES = public_api.public_names()
NUMBER = re.compile(r"\b(int|float|timedelta|datetime)\b")
DEFINED = [pytest.param(name, id=name.name) for names in NAMES.values() for name in names]


@pytest.mark.parametrize("name", pages.PAGES)
def test_a_generated_page_is_what_the_code_makes(name):
    written = (pages.REFERENCE / name).read_text(encoding="utf-8")

    assert written == pages.PAGES[name](), "run `make docs`"


FOREIGN = """
from typing import Annotated
import msgspec
from helios_core import API_LEVEL, Backend, hookimpl, memory

class Settings(msgspec.Struct, frozen=True, kw_only=True):
    path: Annotated[str, msgspec.Meta(description="File of the tables")] = "clinic.db"

@hookimpl
def helios_data_provider():
    own = memory.helios_data_provider()
    return Backend(
        api_level=API_LEVEL, implementation=own.implementation, settings=Settings, open=own.open
    )
"""


def test_a_plugin_that_somebody_installs_here_is_on_no_page(install):
    install("clinic", FOREIGN, distribution="helios-fhir-clinic")
    usable = [item for item in load_all_plugins() if isinstance(item, Plugin)]
    assert "clinic" in {plugin.origin.name for plugin in usable}

    pages_with_it = {name: pages.PAGES[name]() for name in ("backends.md", "settings.md")}

    assert not [name for name, text in pages_with_it.items() if "HFS_CLINIC" in text]
    assert "`clinic`" not in pages.PAGES["../../README.md"]()


@pytest.mark.parametrize("package", public_api.PACKAGES)
def test_every_public_name_is_on_the_page(package):
    exported = importlib.import_module(package).__all__

    assert sorted(name.name for name in NAMES[package]) == sorted(exported)


@pytest.mark.parametrize("name", DEFINED)
def test_every_public_name_says_what_it_is(name):
    assert name.summary.endswith((".", ":"))


@pytest.mark.parametrize("name", DEFINED)
def test_what_raises_says_what_and_when(name):
    """But for the hooks of suites, whose authors read NotImplementedError."""
    silent = [
        function.name
        for function in functions(name.node)
        for raised in ast.walk(function)
        if isinstance(raised, ast.Raise)
        and raised.exc is not None
        and "NotImplementedError" not in ast.unparse(raised.exc)
        and "Raises:" not in (ast.get_docstring(function) or "")
    ]

    assert silent == []


@pytest.mark.parametrize("name", DEFINED)
def test_numbers_and_instants_say_what_they_are(name):
    """Their unit, what is counted, or from where: by themselves, or in the docstring of all."""
    body = name.node.body if isinstance(name.node, ast.ClassDef) else []
    silent = [
        ast.unparse(field.target)
        for field, following in pairwise([*body, None])
        if isinstance(field, ast.AnnAssign)
        and NUMBER.search(ast.unparse(field.annotation))
        and not isinstance(following, ast.Expr)
        and f"`{ast.unparse(field.target)}`" not in name.docstring
    ]

    assert silent == []


def functions(node):
    """Return a public function, or the public functions of a class."""
    members = node.body if isinstance(node, ast.ClassDef) else [node]
    return [
        member
        for member in members
        if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)
        and not member.name.startswith(("test_", "_"))
    ]


def test_what_is_stable_or_not_exists():
    defined = [name for names in NAMES.values() for name in names]

    assert {name.module for name in defined} >= public_api.STABLE
    assert {name.name for name in defined} >= public_api.PROVISIONAL
