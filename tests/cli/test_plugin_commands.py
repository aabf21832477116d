"""Commands of plugins: `helios NAME …` for those that HFS_PLUGINS names, and for no other."""

import sys

import pytest
from click.testing import CliRunner

from helios_core.cli.commands import app
from helios_core.config.settings import OWN
from tests.config.conftest import install

__all__ = ["install"]

GREET = """
import click, msgspec
from helios_core import *

class Settings(msgspec.Struct, frozen=True, kw_only=True):
    word: str

def command(host):
    @click.group()
    def greet():
        '''Greet, and do other things.'''

    @greet.command()
    @click.argument("name")
    def hello(name):
        '''Say hello.'''
        click.echo(f"{host.settings().word}, {name}")

    @greet.command()
    def count():
        '''Count the exports of nobody.'''
        async def counting():
            async with host.open_backends() as backends:
                return len(await backends.job_store.recent("nobody", limit=5))
        click.echo(host.run(counting()))

    @greet.command()
    def fail():
        '''Fail.'''
        raise BackendUnavailable("the queue is down")

    return greet

@hookimpl
def helios_command():
    return CommandExtension(api_level=API_LEVEL, settings=Settings, command=command)
"""

OFFERS = """
from helios_core import *

@hookimpl
def helios_command():
    return CommandExtension(api_level=API_LEVEL, command={command})
"""

MEMORY = {"HFS_STORAGE_BACKEND": "memory", "HFS_BULK_EXPORT_OUTPUT_BACKEND": "memory"}


@pytest.fixture
def helios(monkeypatch):
    """Run a command with only the given settings."""
    for variable in OWN:
        monkeypatch.delenv(variable.name, raising=False)

    def running(*arguments, plugins="", **environ):
        named = {"HFS_PLUGINS": plugins} if plugins else {}
        return CliRunner().invoke(app, arguments, env=MEMORY | named | environ)

    return running


def test_the_help_lists_commands_of_named_plugins_behind_the_servers_own(helios, install):
    install("greet", GREET)

    result = helios("--help", plugins="greet,memory")

    assert result.exit_code == 0
    names = [line.split()[0] for line in result.output.splitlines() if line.startswith("  ")]
    assert names[-1] == "greet"
    assert "Greet, and do other things." in result.output


def test_help_works_without_any_setting(helios, install):
    install("greet", GREET)

    for arguments in (["greet", "--help"], ["greet", "hello", "--help"]):
        result = helios(*arguments, plugins="greet")

        assert result.exit_code == 0, result.output


def test_a_command_reads_the_settings_of_its_plugin(helios, install):
    install("greet", GREET)

    result = helios("greet", "hello", "you", plugins="greet", HFS_GREET_WORD="Good day")

    assert (result.exit_code, result.output) == (0, "Good day, you\n")


def test_a_missing_setting_is_told_in_a_sentence(helios, install):
    install("greet", GREET)

    result = helios("greet", "hello", "you", plugins="greet")

    assert result.exit_code == 2
    assert result.output == (
        "helios: HFS_GREET_WORD is not set, and plugin greet needs it; allowed is text\n"
    )


def test_a_command_opens_what_is_configured(helios, install):
    install("greet", GREET.replace("word: str", 'word: str = "x"'))

    result = helios("greet", "count", plugins="greet")

    assert (result.exit_code, result.output) == (0, "0\n")


def test_errors_of_helios_show_no_traceback(helios, install):
    install("greet", GREET)

    result = helios("greet", "fail", plugins="greet")

    assert (result.exit_code, result.output) == (1, "helios: the queue is down\n")


def test_a_broken_plugin_is_reported_and_breaks_no_other_command(helios, install):
    install("broken", "1/0")
    install("greet", GREET)

    helped = helios("--help", plugins="broken,greet,missing")
    listed = helios("plugins", plugins="broken,greet")

    assert helped.exit_code == 0
    assert "  greet" in helped.output
    assert "ZeroDivisionError" in helped.stderr
    assert "plugin missing, which is not installed" in helped.stderr
    assert listed.exit_code == 0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1/0", "cannot be imported"),
        (OFFERS.format(command="lambda host: 1/0"), "fails to make its command"),
        (OFFERS.format(command="lambda host: exit()"), "fails to make its command: SystemExit"),
        (OFFERS.format(command="lambda host: print"), "which is not a click.Command"),
    ],
)
def test_a_broken_command_is_told_by_its_plugin_when_it_is_called(helios, install, source, said):
    install("broken", source)

    result = helios("broken", "now", plugins="broken")

    assert result.exit_code == 2
    assert "plugin broken of helios-broken 1.2" in result.stderr
    assert said in result.stderr
    assert helios("--version", plugins="broken").exit_code == 0


def test_a_plugin_cannot_take_the_place_of_a_command(helios, install):
    install("settings", GREET)

    result = helios("settings", "--help", plugins="settings")

    assert "Print every setting" in result.output
    assert "one of the server's own" in helios("--help", plugins="settings").stderr


def test_a_plugin_that_is_not_named_is_not_imported_and_the_error_says_what_to_do(helios, install):
    install("greet", GREET)

    result = helios("greet", "--help")

    assert result.exit_code == 2
    assert "add greet to HFS_PLUGINS" in result.stderr
    assert "helios_greet" not in sys.modules


def test_a_command_that_nobody_selected_is_said_to_need_a_setting(helios):
    """As `helios clients` in a shell that does not have the settings of the server."""
    result = helios("clients")

    assert result.exit_code == 2
    assert "No such command 'clients'" in result.stderr
    assert "HFS_AUTH_PROVIDER names." in result.stderr


def test_a_plugin_without_a_command_is_no_command(helios):
    result = helios("memory", plugins="memory")

    assert result.exit_code == 2
    assert "No such command 'memory'" in result.stderr
    assert "HFS_PLUGINS" not in result.stderr


def test_the_list_of_plugins_shows_what_they_add(helios, install):
    install("greet", GREET)

    result = helios("plugins", "--format", "json", plugins="greet")

    assert '"command"' in result.output


def test_a_command_may_have_another_name_than_its_plugin(install, monkeypatch):
    extension = "settings=Settings, command=command"
    install("greet", GREET.replace(extension, f"{extension}, name='say-hello'"))
    monkeypatch.setenv("HFS_PLUGINS", "greet")
    monkeypatch.setenv("HFS_GREET_WORD", "Hello")

    assert "say-hello" in CliRunner().invoke(app, ["--help"]).output
    assert CliRunner().invoke(app, ["say-hello", "hello", "you"]).output == "Hello, you\n"
    assert CliRunner().invoke(app, ["greet", "hello", "you"]).exit_code == 2


@pytest.mark.parametrize("provider", ["greet", "greet_auth"])
def test_the_provider_of_tokens_has_its_command_without_being_named_again(
    install, monkeypatch, provider
):
    install("greet_auth", GREET)
    monkeypatch.setenv("HFS_AUTH_PROVIDER", provider)
    monkeypatch.setenv("HFS_GREET_AUTH_WORD", "Hello")

    result = CliRunner().invoke(app, ["greet_auth", "hello", "you"])

    assert result.output == "Hello, you\n"
