"""The contract suite of commands: clauses C1 to C3 of `CommandExtension`."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import click
import pytest
from click.testing import CliRunner

from helios_core import CommandExtension, ConfigurationError
from helios_core.testing.extensions.contract import ExtensionSuite, Misconfigured


class CommandSuite(ExtensionSuite):
    """
    Tests that the command of every plugin passes.

    A subclass implements the fixture `extension`, and sets `arguments` to a call of the command
    that needs settings or backends.
    """

    hook = "helios_command"
    arguments: ClassVar[Sequence[str]] = ()
    """The arguments after `helios NAME` in that call; set by the subclass."""

    @pytest.fixture
    def subject(self, extension: CommandExtension) -> click.Command:
        """Return the command, made without any configuration."""
        command: click.Command = extension.command(Misconfigured())
        return command

    def test_everything_has_a_help_text(self, subject: click.Command) -> None:
        """C1: the command, its subcommands and their options."""
        for path, command in _commands(subject):
            assert command.help, " ".join(path)
            options = [each for each in command.params if isinstance(each, click.Option)]
            silent = [each.name for each in options if not each.help]
            assert not silent, " ".join(path)

    def test_help_needs_no_setting(self, extension: CommandExtension) -> None:
        """C1, C2: people read the help before they set anything."""
        command = extension.command(Misconfigured())
        assert isinstance(command, click.Command)
        for path, _ in _commands(command):
            result = CliRunner().invoke(command, [*path, "--help"])
            assert result.exit_code == 0, (path, result.output)

    def test_a_wrong_configuration_is_not_hidden(self, subject: click.Command) -> None:
        """C3: the error reaches `helios`, which prints its message and exits with 2."""
        result = CliRunner().invoke(subject, self.arguments)

        assert isinstance(result.exception, ConfigurationError), result.output


def _commands(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, subcommand in command.commands.items():
            yield from _commands(subcommand, (*path, name))
