"""Tables of the configuration: settings, plugins and the capability matrix."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from rich.markup import escape
from rich.table import Table

from helios_core.cli.terminal import new_table
from helios_core.config.environment import Variable
from helios_core.config.matrix import POWERS, Combination, power_names
from helios_core.config.plugins import InstalledPlugin, Plugin
from helios_core.config.selection import Selection
from helios_core.config.settings import OWN
from helios_core.errors import BrokenPlugin
from helios_core.storage.backends import Reach


class SettingRow(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as `helios settings` prints it."""

    name: str
    value: str
    """The effective value, masked if it is a secret; the same as `default` if it is not set."""
    origin: str
    """`environment` or `default`."""
    default: str
    unit: str
    allowed: str
    description: str
    plugin: str | None


class PluginRow(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin as `helios plugins` prints it."""

    name: str
    selected: bool
    version: str
    origin: str
    """The name of the distribution that contains it."""
    offers: tuple[str, ...] = ()
    powers: tuple[str, ...] = ()
    reach: str = ""
    """How far apart processes that share its backends may be; empty if it offers none."""
    problem: str = ""
    """Why it cannot be used; empty if it can."""


def setting_rows(
    selection: Selection, environ: Mapping[str, str], *, others: Iterable[Plugin] = ()
) -> list[SettingRow]:
    """Return the settings of the server, of the selected plugins and of `others`, each once."""
    effective = selection.settings.for_plugins()
    known = {variable.name: variable for variable in OWN}
    for plugin in (*selection.plugins, *others):
        for variable in plugin.variables:
            known.setdefault(variable.name, variable)
    return [_setting(variable, environ, effective) for variable in known.values()]


def _setting(
    variable: Variable, environ: Mapping[str, str], effective: Mapping[str, str]
) -> SettingRow:
    is_set = bool(environ.get(variable.name, "").strip())
    text = effective.get(variable.name, variable.default)
    return SettingRow(
        name=variable.name,
        value=variable.shown(text) if is_set else text,
        origin="environment" if is_set else "default",
        default=variable.default,
        unit=variable.unit,
        allowed=variable.allowed,
        description=variable.description,
        plugin=variable.plugin,
    )


def settings_table(rows: Iterable[SettingRow]) -> Table:
    """Render settings; those from the environment are bold."""
    table = new_table("setting", "value", "origin", "default", "unit")
    for row in rows:
        style = "bold" if row.origin == "environment" else None
        cells = (row.name, row.value, row.origin, row.default, row.unit)
        table.add_row(*map(escape, cells), style=style)
    return table


def settings_markdown(rows: Sequence[SettingRow]) -> str:
    """Return the reference of the settings in Markdown: a table for the server and each plugin."""
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
    plugins: Iterable[Plugin | tuple[InstalledPlugin, BrokenPlugin]], selected: set[str]
) -> list[PluginRow]:
    """Return a row for every plugin with what it offers, or why it cannot be used."""
    return [_plugin(item, selected) for item in plugins]


def _plugin(item: Plugin | tuple[InstalledPlugin, BrokenPlugin], selected: set[str]) -> PluginRow:
    origin, problem = (item.origin, "") if isinstance(item, Plugin) else (item[0], str(item[1]))
    offers = item.offers if isinstance(item, Plugin) else {}
    has = {power for backend in offers.values() for power in power_names(backend.implementation)}
    reaches = [backend.reach for backend in offers.values()]
    extensions = item.extensions if isinstance(item, Plugin) else {}
    return PluginRow(
        name=origin.name,
        selected=origin.name in selected,
        version=origin.version,
        origin=origin.distribution,
        offers=(*offers, *extensions),
        powers=tuple(name for _, name in POWERS if name in has),
        reach=Reach.common(*reaches) if reaches else "",
        problem=problem,
    )


def plugins_table(rows: Iterable[PluginRow]) -> Table:
    """Render plugins; broken ones with the reason."""
    table = new_table("plugin", "selected", "version", "origin", "offers", "reach", "powers")
    for row in rows:
        offers = f"[red]broken: {escape(row.problem)}" if row.problem else ", ".join(row.offers)
        table.add_row(
            row.name,
            "yes" if row.selected else "",
            row.version,
            row.origin,
            offers,
            row.reach,
            ", ".join(row.powers),
        )
    return table


def matrix_table(combinations: Iterable[Combination]) -> Table:
    """Render the capability matrix, with the reason why a combination does not work."""
    table = new_table("data provider", "output store", "export", "job store", "reach", "remarks")
    for row in combinations:
        provider = f"{row.data_provider} (selected)" if row.selected else row.data_provider
        export = "yes" if row.works else "no"
        cells = (provider, row.output_store, export, row.job_store, row.reach, _remarks(row))
        table.add_row(*map(escape, cells), style=None if row.works else "dim")
    return table


def combination_text(row: Combination) -> str:
    """Return a line about the capabilities of the selected combination."""
    remarks = _remarks(msgspec.structs.replace(row, required=()))
    return f"{row.name}: jobs in {row.job_store}, reach is {row.reach}; {remarks}"


def _remarks(row: Combination) -> str:
    able = ", ".join(capability.name for capability in row.capabilities if capability.works)
    unable = ", ".join(capability.name for capability in row.capabilities if not capability.works)
    needs = ", ".join(row.required)
    remarks = (able, unable and f"no {unable}", needs and f"needs {needs}")
    return row.reason or "; ".join(filter(None, remarks))
