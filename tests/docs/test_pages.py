"""Generated pages are as the code makes them, and the page of the public API has all of it."""

import importlib

import pytest

from tests import pages, public_api

NAMES = public_api.public_names()
DEFINED = [pytest.param(name, id=name.name) for names in NAMES.values() for name in names]


@pytest.mark.parametrize("name", pages.PAGES)
def test_a_generated_page_is_what_the_code_makes(name):
    written = (pages.REFERENCE / name).read_text(encoding="utf-8")

    assert written == pages.PAGES[name](), "run `make docs`"


@pytest.mark.parametrize("package", public_api.PACKAGES)
def test_every_public_name_is_on_the_page(package):
    exported = importlib.import_module(package).__all__

    assert sorted(name.name for name in NAMES[package]) == sorted(exported)


@pytest.mark.parametrize("name", DEFINED)
def test_every_public_name_says_what_it_is(name):
    assert name.summary.endswith((".", ":"))


def test_what_is_stable_or_not_exists():
    defined = [name for names in NAMES.values() for name in names]

    assert {name.module for name in defined} >= public_api.STABLE
    assert {name.name for name in defined} >= public_api.PROVISIONAL
