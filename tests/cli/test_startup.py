"""A command imports what it needs and nothing else, so that the quick ones are quick."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from helios_core.cli.commands import app
from helios_core.client.state import FileCompression
from helios_core.fhir.definitions import FHIRVersion
from helios_core.model.exports import Level

IMPORTS = """
import json, sys
before = set(sys.modules)
from helios_core.cli.commands import app
app(sys.argv[1:], standalone_mode=False)
print(json.dumps(sorted(set(sys.modules) - before)), file=sys.stderr)
"""


def imported(*arguments: str) -> set[str]:
    """Return the modules a command imports beside those of Python itself."""
    process = subprocess.run(
        [sys.executable, "-c", IMPORTS, *arguments],
        capture_output=True,
        check=True,
        env={"HFS_LOG_LEVEL": "error"},
    )
    modules = json.loads(process.stderr.splitlines()[-1])
    return {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names}


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def rooms(modules: set[str]) -> set[str]:
    """Return the packages and modules that stand directly in `helios_core`."""
    return {name.split(".")[1] for name in modules if name.startswith("helios_core.")}


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_import_nothing_of_the_server(option):
    modules = imported(option)

    assert packages(modules) == {"click", "lazy_loader", "helios_core"}
    assert {name for name in modules if name.startswith("helios_core")} == {
        "helios_core",
        "helios_core.cli",
        "helios_core.cli.commands",
        "helios_core.errors",
    }


@pytest.mark.parametrize("command", ["serve", "settings", "export"])
def test_the_help_of_a_command_imports_nothing_of_the_server(command):
    assert packages(imported(command, "--help")) == {"click", "lazy_loader", "helios_core"}


def test_settings_import_the_selected_plugins_but_neither_server_nor_client():
    modules = imported("settings")

    assert {"helios_sqlite", "helios_localfs"} <= packages(modules)
    assert not packages(modules) & {
        "asyncpg",
        "botocore",
        "helios_postgres",
        "helios_s3",
        "httpx",
        "isal",
        "litestar",
        "obstore",
        "stamina",
        "uvicorn",
        "uvloop",
    }
    assert rooms(modules) <= {"cli", "config", "errors", "fhir", "hashes", "model", "storage"}


@pytest.mark.parametrize("command", ["plugins", "capabilities"])
def test_listing_plugins_imports_neither_server_nor_client(command):
    modules = imported(command)

    # Elasticsearch's own client imports httpx wherever it is installed.
    assert not packages(modules) & {"litestar", "stamina", "uvicorn"}
    assert not rooms(modules) & {"client", "export", "http", "interactions", "loading", "server"}


@pytest.mark.parametrize(
    ("command", "option", "kind"),
    [
        ("export", "level", Level),
        ("export", "compress", FileCompression),
        ("load", "fhir_version", FHIRVersion),
    ],
)
def test_the_choices_of_an_option_are_all_there_are(command, option, kind):
    [parameter] = [item for item in app.commands[command].params if item.name == option]

    assert list(parameter.type.choices) == list(kind)


@pytest.mark.parametrize("library", ["httpx", "stamina", "zstandard"])
@pytest.mark.parametrize(
    "arguments",
    [("export", "http://127.0.0.1:9", "--to", "files"), ("verify", "manifest.json"), ("demo",)],
    ids=lambda arguments: arguments[0],
)
def test_without_the_client_one_line_says_what_to_install(
    monkeypatch, tmp_path, library, arguments
):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "manifest.json").touch()

    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 2
    assert result.output == (
        f"helios: {arguments[0]} needs the Bulk Data client: pip install 'helios-fhir[client]'\n"
    )
