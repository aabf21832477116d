"""Commands that explain the configuration."""

import io
import json

import pytest
from click.testing import CliRunner
from rich.console import Group
from rich.text import Text

from helios_core.cli import tables
from helios_core.cli.commands import app
from helios_core.cli.terminal import Output
from helios_core.config import matrix, selection
from helios_core.config.plugins import load_all_plugins
from helios_core.config.settings import OWN
from tests.config.conftest import install

__all__ = ["install"]


@pytest.fixture
def helios(monkeypatch):
    """Run a command with these settings only."""
    for variable in OWN:
        monkeypatch.delenv(variable.name, raising=False)

    def running(*arguments, **environ):
        return CliRunner().invoke(app, arguments, env=environ)

    return running


def test_without_a_command_the_help_is_shown(helios):
    result = helios()

    assert "serve" in result.output
    assert "capabilities" in result.output


def test_the_version_is_told(helios):
    assert helios("--version").output.strip() == "0.1.0"


def test_settings_tell_value_and_origin(helios):
    rows = json.loads(helios("settings", "--format", "json", HFS_SERVER_PORT="99").output)

    by_name = {row["name"]: row for row in rows}
    port = by_name["HFS_SERVER_PORT"]
    assert (port["value"], port["origin"], port["default"]) == ("99", "environment", "8080")
    assert by_name["HFS_SERVER_HOST"]["origin"] == "default"
    assert by_name["HFS_BULK_EXPORT_OUTPUT_TTL"]["unit"] == "seconds"
    assert by_name["HFS_BULK_EXPORT_OUTPUT_DIR"]["value"] == "data/exports"
    assert by_name["HFS_SQLITE_SYNCHRONOUS"]["plugin"] == "sqlite"


def test_every_setting_is_listed_once(helios):
    rows = json.loads(helios("settings", "--format", "json").output)

    names = [row["name"] for row in rows]
    assert len(names) == len(set(names))
    assert {variable.name for variable in OWN} <= set(names)


@pytest.mark.parametrize("output", ["table", "json", "markdown"])
def test_secrets_are_masked(helios, output):
    address = {"HFS_BASE_URL": "https://me:hush@fhir.example"}

    result = helios("settings", "--format", output, HFS_DATABASE_URL="hush.db", **address)

    assert result.exit_code == 0
    assert "hush" not in result.output
    assert output == "markdown" or "@fhir.example" in result.output


def test_only_what_the_environment_sets_is_shown_on_request(helios):
    rows = helios("settings", "--changed", "--format", "json", HFS_SERVER_PORT="99").output

    assert [row["name"] for row in json.loads(rows)] == ["HFS_SERVER_PORT"]


def test_the_settings_table_shows_whole_names(helios):
    output = helios("settings").output

    assert all(variable.name in output for variable in OWN)


def test_configuration_problems_are_told_together_without_traceback(helios):
    result = helios("settings", HFS_SERVER_PORT="x", HFS_LOG_LEVEL="loud", HFS_NOPE="1")

    assert result.exit_code == 2
    assert "3 problems in the configuration" in result.stderr
    for name in ("HFS_SERVER_PORT", "HFS_LOG_LEVEL", "HFS_NOPE"):
        assert name in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["serve", "worker", "migrate"])
def test_no_command_starts_with_a_wrong_configuration(helios, command):
    result = helios(command, HFS_STORAGE_BACKEND="nosuch")

    assert result.exit_code == 2
    assert "nosuch" in result.stderr


def test_plugins_are_listed_with_what_they_are(helios):
    rows = json.loads(helios("plugins", "--format", "json").output)

    by_name = {row["name"]: row for row in rows}
    assert by_name["sqlite"]["selected"]
    assert not by_name["memory"]["selected"]
    assert by_name["localfs"]["origin"] == "helios-fhir-localfs"
    assert by_name["localfs"]["version"] == "0.1.0"
    assert by_name["sqlite"]["offers"] == ["data provider", "job store"]
    assert "write" in by_name["sqlite"]["powers"]
    assert by_name["sqlite"]["reach"] == "one machine"
    assert by_name["memory"]["reach"] == "one process"


def test_a_broken_plugin_is_listed_with_the_reason(helios, install):
    install("wreck", "import nowhere_to_be_found")

    rows = json.loads(helios("plugins", "--format", "json").output)

    problem = {row["name"]: row["problem"] for row in rows}["wreck"]
    assert "nowhere_to_be_found" in problem
    assert "broken" in helios("plugins").output


def test_plugins_are_listed_whatever_is_wrong_with_the_configuration(helios):
    assert "sqlite" in helios("plugins", HFS_STORAGE_BACKEND="nosuch").output


def test_capabilities_show_what_is_installed(helios):
    output = helios("capabilities").output

    assert "sqlite (selected)" in output
    assert "not part of this release" not in output


def test_capabilities_say_why_what_is_selected_does_not_start(helios):
    output = helios("capabilities", "--format", "json", HFS_BULK_EXPORT_OUTPUT_BACKEND="s3").output

    [row] = [row for row in json.loads(output) if row["selected"]]
    assert (row["data_provider"], row["output_store"], row["works"]) == ("sqlite", "s3", False)
    assert row["reason"].startswith("HFS_BULK_EXPORT_S3_BUCKET is not set")


def test_all_capabilities_show_what_could_be(helios):
    output = helios("capabilities", "--all").output

    assert "s3-elasticsearch\ts3" in output


def test_capabilities_are_given_as_json(helios):
    rows = json.loads(helios("capabilities", "--format", "json").output)

    selected = [row for row in rows if row["selected"]]
    assert [(row["data_provider"], row["output_store"], row["works"]) for row in selected] == [
        ("sqlite", "local-fs", True)
    ]


@pytest.mark.parametrize(
    "arguments", [("--level", "group"), ("--level", "patient", "--group", "g"), ("--group",)]
)
def test_a_group_goes_with_the_group_level_only(helios, tmp_path, arguments):
    result = helios("export", "http://127.0.0.1:9", "--to", str(tmp_path), *arguments)

    assert result.exit_code == 2


@pytest.mark.parametrize("group", ["", "jobs", "index"])
def test_the_help_lists_commands_with_a_summary_that_is_not_cut(helios, group):
    result = helios(*group.split(), "--help", COLUMNS="80")

    assert result.exit_code == 0
    _, listed = result.output.split("Commands:\n")
    assert listed.strip()
    assert [line for line in listed.splitlines() if line.endswith("...")] == []


class Terminal(io.StringIO):
    """A text file that is a terminal."""

    def isatty(self):
        return True


def wide_tables():
    """Return each table that may not fit, with a text of it that must not be broken."""
    settings = tables.setting_rows(selection.configure({}), {})
    plugins = tables.plugin_rows(load_all_plugins(), {"sqlite"})
    combinations = matrix.matrix(load_all_plugins(), selected=("sqlite", "local-fs"), known=True)
    return {
        "settings": (tables.settings_table(settings), "origin: default; default: 8080"),
        "plugins": (tables.plugins_table(plugins), "data provider, job store"),
        "capabilities": (tables.matrix_table(combinations), "write, history, history of types"),
        "a table with a line below it": (
            Group(tables.settings_table(settings), Text("all of them")),
            "origin: default; default: 8080",
        ),
    }


@pytest.mark.parametrize(
    "name", ["settings", "plugins", "capabilities", "a table with a line below it"]
)
@pytest.mark.parametrize("width", [60, 80])
def test_a_table_without_room_becomes_a_list(name, width):
    table, unbroken = wide_tables()[name]
    file = Terminal()

    Output(file=file, width=width, color_system=None).print(table)

    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert any(unbroken in line for line in lines)


@pytest.mark.parametrize("file", [Terminal(), io.StringIO()])
@pytest.mark.parametrize("name", ["settings", "plugins", "capabilities"])
def test_a_table_with_room_or_in_a_file_is_a_table(name, file):
    table, _ = wide_tables()[name]
    width = 400 if file.isatty() else 80

    Output(file=file, width=width, color_system=None).print(table)

    headings = [str(column.header) for column in table.columns]
    assert any(line.split() == " ".join(headings).split() for line in file.getvalue().splitlines())
