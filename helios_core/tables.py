"""What the command line shows of the configuration, as tables."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from rich.markup import escape
from rich.table import Table

from helios_core.capabilities import POWERS, Combination, powers
from helios_core.errors import BrokenPlugin
from helios_core.installed import Installed, Plugin
from helios_core.plugins import Selection
from helios_core.settings import OWN
from helios_core.variables import Secret, Variable, text_of


class SettingRow(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as `helios settings` tells it."""

    name: str
    value: str
    """The value in effect; masked for a secret, the default's words where there is none."""
    origin: str
    """`environment` or `default`."""
    default: str
    unit: str
    allowed: str
    description: str
    plugin: str | None


class PluginRow(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin as `helios plugins` tells it."""

    name: str
    selected: bool
    version: str
    origin: str
    """The distribution that brings it."""
    offers: tuple[str, ...] = ()
    powers: tuple[str, ...] = ()
    problem: str = ""
    """Why it cannot be used; empty where it can."""


def setting_rows(selection: Selection, environ: Mapping[str, str]) -> list[SettingRow]:
    """Give every setting of the server and of the selected plugins, each once."""
    effective = selection.settings.for_plugins()
    known = {variable.name: variable for variable in OWN}
    for plugin in selection.plugins:
        for variable in plugin.variables:
            known.setdefault(variable.name, variable)
    return [_setting(variable, environ, effective) for variable in known.values()]


def _setting(
    variable: Variable, environ: Mapping[str, str], effective: Mapping[str, str]
) -> SettingRow:
    given = bool(environ.get(variable.name, "").strip())
    text = effective.get(variable.name, variable.default)
    return SettingRow(
        name=variable.name,
        value=text_of(Secret(text)) if variable.secret and given else text,
        origin="environment" if given else "default",
        default=variable.default,
        unit=variable.unit,
        allowed=variable.allowed,
        description=variable.description,
        plugin=variable.plugin,
    )


def settings_table(rows: Iterable[SettingRow]) -> Table:
    """Show settings, those of the environment standing out."""
    table = Table("setting", "value", "origin", "default", "unit")
    for row in rows:
        style = "bold" if row.origin == "environment" else None
        cells = (row.name, row.value, row.origin, row.default, row.unit)
        table.add_row(*map(escape, cells), style=style)
    return table


def settings_markdown(rows: Sequence[SettingRow]) -> str:
    """Write the reference of the settings, one table for the server and one per plugin."""
    blocks = []
    for plugin in dict.fromkeys(row.plugin for row in rows):
        lines = [
            f"## Plugin `{plugin}`" if plugin else "## Server",
            "",
            "| setting | default | unit | allowed | meaning |",
            "|---|---|---|---|---|",
            *(_markdown(row) for row in rows if row.plugin == plugin),
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _markdown(row: SettingRow) -> str:
    default = f"`{row.default}`" if row.default and " " not in row.default else row.default
    cells = (f"`{row.name}`", default, row.unit, row.allowed, row.description)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def plugin_rows(
    found: Iterable[Plugin | tuple[Installed, BrokenPlugin]], selected: Iterable[str]
) -> list[PluginRow]:
    """Tell of every installed plugin what it is and offers, or what is wrong with it."""
    names = set(selected)
    return [_plugin(item, names) for item in found]


def _plugin(item: Plugin | tuple[Installed, BrokenPlugin], selected: set[str]) -> PluginRow:
    origin, problem = (item.origin, "") if isinstance(item, Plugin) else (item[0], str(item[1]))
    offers = item.offers if isinstance(item, Plugin) else {}
    has = {power for backend in offers.values() for power in powers(backend.implementation)}
    observes = ["observer"] if isinstance(item, Plugin) and item.observer else []
    return PluginRow(
        name=origin.name,
        selected=origin.name in selected,
        version=origin.version,
        origin=origin.distribution,
        offers=(*offers, *observes),
        powers=tuple(name for _, name in POWERS if name in has),
        problem=problem,
    )


def plugins_table(rows: Iterable[PluginRow]) -> Table:
    """Show plugins, broken ones with the reason."""
    table = Table("plugin", "selected", "version", "origin", "offers", "powers")
    for row in rows:
        offers = f"[red]broken: {escape(row.problem)}" if row.problem else ", ".join(row.offers)
        table.add_row(
            row.name,
            "yes" if row.selected else "",
            row.version,
            row.origin,
            offers,
            ", ".join(row.powers),
        )
    return table


def matrix_table(combinations: Iterable[Combination]) -> Table:
    """Show the capability matrix; below it stands why something does not work."""
    names = [name for _, name in POWERS]
    table = Table("storage", "output", "export", "jobs in", *names, title="Capabilities")
    for row in combinations:
        storage = f"{row.storage} *" if row.selected else row.storage
        if not row.works:
            table.add_row(storage, row.output, f"no: {row.reason}", style="dim")
            continue
        has = {capability.name: capability.works for capability in row.capabilities}
        marks = ("yes" if has.get(name) else "no" for name in names)
        table.add_row(storage, row.output, "yes", row.job_store, *marks)
    return table
