"""
The commands of plugins: `helios NAME …` for every plugin named in HFS_PLUGINS that offers one.

Only those plugins are imported, and only when the help lists commands or one of theirs runs.
"""

import os
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import click

from helios_core.config.plugins import Plugin, find_plugin, installed_plugins, load_plugin
from helios_core.errors import BrokenPlugin, ConfigurationError
from helios_core.storage.backends import Backends
from helios_core.storage.extensions import CommandExtension

T = TypeVar("T")

SETTING = "HFS_PLUGINS"


def named_plugins() -> list[str]:
    """Return the names in HFS_PLUGINS, in order and without repetition."""
    names = (name.strip() for name in os.environ.get(SETTING, "").split(","))
    return list(dict.fromkeys(filter(None, names)))


def usable_commands() -> list[str]:
    """Return the names of plugins that offer a command; report the broken ones."""
    usable = list[str]()
    for name in named_plugins():
        try:
            if plugin_command(name) is not None:
                usable.append(name)
        except ConfigurationError as error:
            click.echo(f"helios: {error}", err=True)
    return usable


def plugin_command(name: str) -> click.Command | None:
    """
    Return the command of a plugin, or None if HFS_PLUGINS names no plugin that offers one.

    Raises:
        ConfigurationError: HFS_PLUGINS names the plugin, and it cannot be used.
    """
    if name not in named_plugins():
        return None
    plugin = load_plugin(find_plugin(name, installed_plugins(), setting=SETTING))
    extension = plugin.command
    if extension is None:
        return None
    try:
        command = extension.command(_Host(plugin, extension))
    except (Exception, SystemExit) as error:
        raise BrokenPlugin(f"{plugin.origin} fails to make its command: {error!r}") from error
    if not isinstance(command, click.Command):
        raise BrokenPlugin(
            f"{plugin.origin} makes a command that is not a click.Command but of type "
            f"{type(command).__name__}"
        )
    command.name = name
    return command


def is_unnamed(name: str) -> bool:
    """Return whether a plugin of that name is installed and HFS_PLUGINS does not name it."""
    installed = any(plugin.name == name for plugin in installed_plugins())
    return installed and name not in named_plugins()


class _Host:
    """What the server does for a command; see `CommandHost`."""

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
