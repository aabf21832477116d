"""Plugins, suites and guides import the public API, and use all of it."""

import re
from pathlib import Path

import pytest

from tests.docs.elsewhere import PUBLIC
from tests.public_api import public_names

ROOT = Path(__file__).parents[2]
IMPORT = re.compile(r"^ *(?:from|import) (helios_core[\w.]*)", re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OF_THE_SERVER = {
    "elasticsearch/test_index.py": {"helios_core.memory"},
    "elasticsearch/test_kills.py": {"helios_core.cli.demo.population"},
    "elasticsearch/test_oracle.py": {
        "helios_core.storage.index_lookups",
        "helios_core.storage.indexed_provider",
    },
    "keycloak_auth/test_settings.py": {"helios_core.config.selection"},
    "keycloak_auth/test_smart_configuration.py": {"helios_core.http.smart_configuration"},
    "mongodb/test_writing.py": {"helios_core.loading.load"},
    "postgres/test_same_answers.py": {"helios_core.loading.load"},
    "postgres/test_settings.py": {"helios_core.config.selection"},
    "s3/test_moments.py": {"helios_core.testing.snapshots"},
    "s3/test_serving.py": {"helios_core.client.export", "helios_core.client.kickoff"},
    "s3/test_settings.py": {"helios_core.config.selection"},
    "smart_auth/conftest.py": {"helios_core.memory"},
    "smart_auth/test_commands.py": {"helios_core.cli.commands"},
    "smart_auth/test_server.py": {
        *("helios_core.config.settings", "helios_core.export.worker", "helios_core.http.app"),
        *("helios_core.fhir.definitions", "helios_core.fhir.resources", "helios_core.memory"),
        *("helios_core.storage.backends", "helios_core.storage.data_provider"),
        "helios_core.storage.token_verifier",
    },
    "smart_auth/test_token_endpoint.py": {"helios_core.memory"},
    "smart_auth/test_verifier.py": {"helios_core.memory"},
}
"""Tests of plugins that load, configure, serve or export with Helios itself."""

TESTS = sorted(ROOT.glob("tests/plugins/**/*.py"))
SUITES = [
    path
    for path in sorted(ROOT.glob("helios_core/testing/**/*.py"))
    if path.parent.name != "extensions"  # they run the server around what they test
]
SHOWN = [
    *sorted(ROOT.glob("docs/examples/**/*.py")),
    *(page for page in sorted(ROOT.glob("docs/**/*.md")) if page.parent.name != "decisions"),
    *sorted(ROOT.glob("plugins/*/README.md")),
    ROOT / "README.md",
]
USING = [*SHOWN, *SUITES, *TESTS, *ROOT.glob("plugins/**/*.py"), *ROOT.glob("tests/**/*.py")]
NAMES = re.compile(r"from helios_core(?:\.fhir|\.testing)? import (\([^)]*\)|.*)")


def in_repository(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", TESTS, ids=in_repository)
def test_the_tests_of_plugins_import_the_public_api(path):
    others = OF_THE_SERVER.get(path.relative_to(ROOT / "tests/plugins").as_posix(), set())

    assert {*IMPORT.findall(path.read_text())} - PUBLIC == others


@pytest.mark.parametrize("path", SUITES, ids=in_repository)
def test_suites_import_the_public_api_and_each_other(path):
    imported = {*IMPORT.findall(path.read_text())} - PUBLIC

    assert {name for name in imported if not name.startswith("helios_core.testing.")} == set()


@pytest.mark.parametrize("path", SHOWN, ids=in_repository)
def test_what_the_documentation_shows_imports_the_public_api(path):
    text = path.read_text()
    code = "".join(BLOCK.findall(text)) if path.suffix == ".md" else text

    assert {*IMPORT.findall(code)} <= PUBLIC


def test_every_public_name_is_used_by_a_plugin_a_suite_a_test_or_a_guide():
    """Or is part of the definition of one that is; errors are what others may raise."""
    names = [name for defined in public_names().values() for name in defined]
    imported = {
        name
        for path in USING
        for found in NAMES.findall(path.read_text())
        for name in re.findall(r"\w+", found)
    }

    def is_part_of_another(name):
        word = re.compile(rf"\b{name}\b")
        return any(word.search(each.signature) for each in names if each.name != name)

    assert [
        each.name
        for each in names
        if each.module != "helios_core.errors"
        and each.name not in imported
        and not is_part_of_another(each.name)
    ] == []
