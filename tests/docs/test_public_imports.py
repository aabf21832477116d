"""What plugins show of themselves imports only what plugins may import."""

import re
from pathlib import Path

import pytest

from tests.docs.elsewhere import PUBLIC

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
SHOWN = [*sorted(ROOT.glob("docs/examples/**/*.py")), *sorted(ROOT.glob("docs/how-to/*.md"))]


def in_repository(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", TESTS, ids=in_repository)
def test_the_tests_of_plugins_import_the_public_api(path):
    others = OF_THE_SERVER.get(path.relative_to(ROOT / "tests/plugins").as_posix(), set())

    assert {*IMPORT.findall(path.read_text())} - PUBLIC == others


@pytest.mark.parametrize("path", SHOWN, ids=in_repository)
def test_what_the_documentation_shows_imports_the_public_api(path):
    text = path.read_text()
    code = "".join(BLOCK.findall(text)) if path.suffix == ".md" else text

    assert {*IMPORT.findall(code)} <= PUBLIC
