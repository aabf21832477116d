"""The commands that print what is configured and installed."""

import os
from typing import Literal

from helios_core.cli import tables
from helios_core.cli.terminal import out, print_json, print_line
from helios_core.config import matrix, selection
from helios_core.config.plugins import Plugin, load_all_plugins
from helios_core.config.settings import read_settings
from helios_core.errors import ConfigurationError


def print_settings(output: Literal["table", "json", "markdown"], *, changed: bool) -> None:
    """
    Print every setting of the server and of the selected plugins, in Markdown of all plugins.

    With `changed`, print only settings that the environment sets.
    """
    others = _usable_plugins() if output == "markdown" else []
    rows = tables.setting_rows(selection.configure(os.environ), os.environ, others=others)
    if changed:
        rows = [row for row in rows if row.origin == "environment"]
    match output:
        case "table":
            out.print(tables.settings_table(rows))
        case "json":
            print_json(rows)
        case "markdown":
            print_line(tables.settings_markdown(rows).rstrip())


def print_plugins(output: Literal["table", "json"]) -> None:
    """Print every installed plugin, whatever is wrong with the configuration."""
    settings, _ = read_settings(os.environ)
    rows = tables.plugin_rows(load_all_plugins(), selection.selected_names(settings))
    if output == "json":
        print_json(rows)
    else:
        out.print(tables.plugins_table(rows))


def print_capabilities(output: Literal["table", "json"], *, known: bool) -> None:
    """Print the capability matrix; with `known`, also of backends that are not installed."""
    settings, _ = read_settings(os.environ)
    rows = matrix.matrix(
        load_all_plugins(),
        selected=settings.backend_names,
        known=known,
        job_store=settings.bulk_export_job_store,
    )
    rows = matrix.with_problem(rows, _problem())
    if output == "json":
        print_json(rows)
    else:
        out.print(tables.matrix_table(rows))


def _usable_plugins() -> list[Plugin]:
    return [plugin for plugin in load_all_plugins() if isinstance(plugin, Plugin)]


def _problem() -> str:
    """Return why the server would refuse to start with this configuration, or an empty string."""
    try:
        selection.configure(os.environ)
    except ConfigurationError as error:
        return str(error)
    return ""
