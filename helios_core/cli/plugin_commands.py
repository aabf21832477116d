"""
The commands of the plugins that HFS_PLUGINS or HFS_AUTH_PROVIDER names.

Only those plugins are imported, and only to list commands in the help or to run one of theirs.
"""

import os
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import click

from helios_core.config.plugins import (
    Plugin,
    auth_plugin,
    find_plugin,
    installed_plugins,
    load_plugin,
)
from helios_core.errors import BrokenPlugin, ConfigurationError
from helios_core.storage.backends import Backends
from helios_core.storage.extensions import CommandExtension

T = TypeVar("T")

SETTING = "HFS_PLUGINS"
AUTH_SETTING = "HFS_AUTH_PROVIDER"


def named_plugins() -> list[str]:
    """Return the names of the plugins whose commands are available, in order, each once."""
    names = [name.strip() for name in os.environ.get(SETTING, "").split(",")]
    if provider := os.environ.get(AUTH_SETTING, "").strip():
        names.append(auth_plugin(provider, {plugin.name for plugin in installed_plugins()}))
    return list(dict.fromkeys(filter(None, names)))


def usable_commands() -> list[str]:
    """Return the names of the commands of plugins; report the plugins that are broken."""
    usable = list[str]()
    for plugin in named_plugins():
        try:
            if offer := _offer(plugin):
                usable.append(offer[0])
        except ConfigurationError as error:
            click.echo(f"helios: {error}", err=True)
    return usable


def plugin_command(name: str) -> click.Command | None:
    """
    Return the command of a name, or None if no selected plugin offers it.

    Raises:
        ConfigurationError: The plugin cannot be used.
    """
    # The plugin of that name comes first, so that another one that is broken does not matter.
    for plugin in sorted(named_plugins(), key=lambda plugin: plugin != name):
        try:
            offer = _offer(plugin)
        except ConfigurationError as error:
            if plugin == name:
                raise
            click.echo(f"helios: {error}", err=True)
            continue
        if offer and offer[0] == name:
            return _make_command(*offer)
    return None


def advice_on(name: str) -> str:
    """Return how to get a missing command; empty if its plugin is selected and offers none."""
    if name in named_plugins():
        return ""
    if any(plugin.name == name for plugin in installed_plugins()):
        return f"If plugin {name} offers it, add {name} to HFS_PLUGINS."
    return (
        "`helios --help` lists all commands, including those of the plugins that HFS_PLUGINS or "
        "HFS_AUTH_PROVIDER names."
    )


def _offer(plugin_name: str) -> tuple[str, Plugin, CommandExtension] | None:
    """Return the name, plugin and extension of a plugin's command, or None if it has none."""
    plugin = load_plugin(find_plugin(plugin_name, installed_plugins(), setting=SETTING))
    extension = plugin.command
    return None if extension is None else (extension.name or plugin_name, plugin, extension)


def _make_command(name: str, plugin: Plugin, extension: CommandExtension) -> click.Command:
    try:
        command = extension.command(_Host(plugin, extension))
    except (Exception, SystemExit) as error:
        raise BrokenPlugin(f"{plugin.origin} fails to make its command: {error!r}") from error
    if not isinstance(command, click.Command):
        raise BrokenPlugin(
            f"{plugin.origin} returned a command of type {type(command).__name__}, which is not a "
            "click.Command"
        )
    command.name = name
    return command


class _Host:
    """The host of a plugin's command; see `CommandHost`."""

    def __init__(self, plugin: Plugin, extension: CommandExtension) -> None:
        self._plugin = plugin
        self._extension = extension

    def settings(self) -> Any:  # noqa: ANN401  as the protocol declares it
        from helios_core.config.extensions import read_descriptor_settings
        from helios_core.config.settings import read_settings

        server, _ = read_settings(os.environ)
        settings, problems = read_descriptor_settings(
            self._plugin.origin, self._extension, server.for_plugins()
        )
        if problems:
            raise ConfigurationError("\n".join(problems))
        return settings

    def open_backends(self) -> AbstractAsyncContextManager[Backends]:
        from helios_core.config.selection import configure, open_backends

        return open_backends(configure(os.environ).settings)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        from helios_core.cli.terminal import log_errors_only, run

        log_errors_only()
        return run(work)

    def print_table(self, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        from rich.markup import escape

        from helios_core.cli.terminal import new_table, out

        table = new_table(*headings)
        for row in rows:
            table.add_row(*map(escape, row))
        out.print(table)
