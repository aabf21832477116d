"""What the command line shows of the configuration, as tables."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from helios_core.client.export import ExportSummary
from helios_core.client.verification import VerificationReport
from helios_core.config.environment import Variable, to_text
from helios_core.config.matrix import POWERS, Combination, power_names
from helios_core.config.plugins import InstalledPlugin, Plugin
from helios_core.config.selection import Selection
from helios_core.config.settings import OWN
from helios_core.errors import BrokenPlugin
from helios_core.loading.load import LoadSummary
from helios_core.storage.hooks import Reach
from helios_core.storage.secrets import Secret


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
    reach: str = ""
    """How far apart the processes may be that share it; empty where it offers no backend."""
    problem: str = ""
    """Why it cannot be used; empty where it can."""


def setting_rows(
    selection: Selection, environ: Mapping[str, str], *, others: Iterable[Plugin] = ()
) -> list[SettingRow]:
    """Give every setting of the server, of the selected plugins and of others, each once."""
    effective = selection.settings.for_plugins()
    known = {variable.name: variable for variable in OWN}
    for plugin in (*selection.plugins, *others):
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
        value=to_text(Secret(text)) if variable.secret and given else text,
        origin="environment" if given else "default",
        default=variable.default,
        unit=variable.unit,
        allowed=variable.allowed,
        description=variable.description,
        plugin=variable.plugin,
    )


def settings_table(rows: Iterable[SettingRow]) -> Table:
    """Show settings, those of the environment standing out."""
    table = _table("setting", "value", "origin", "default", "unit")
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
    found: Iterable[Plugin | tuple[InstalledPlugin, BrokenPlugin]], selected: Iterable[str]
) -> list[PluginRow]:
    """Tell of every installed plugin what it is and offers, or what is wrong with it."""
    names = set(selected)
    return [_plugin(item, names) for item in found]


def _plugin(item: Plugin | tuple[InstalledPlugin, BrokenPlugin], selected: set[str]) -> PluginRow:
    origin, problem = (item.origin, "") if isinstance(item, Plugin) else (item[0], str(item[1]))
    offers = item.offers if isinstance(item, Plugin) else {}
    has = {power for backend in offers.values() for power in power_names(backend.implementation)}
    reaches = [backend.reach for backend in offers.values()]
    observes = ["observer"] if isinstance(item, Plugin) and item.observer else []
    return PluginRow(
        name=origin.name,
        selected=origin.name in selected,
        version=origin.version,
        origin=origin.distribution,
        offers=(*offers, *observes),
        powers=tuple(name for _, name in POWERS if name in has),
        reach=Reach.common(*reaches) if reaches else "",
        problem=problem,
    )


def plugins_table(rows: Iterable[PluginRow]) -> Table:
    """Show plugins, broken ones with the reason."""
    table = _table("plugin", "selected", "version", "origin", "offers", "reach", "powers")
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
    """Show the capability matrix; below it stands why something does not work."""
    table = _table("storage", "output", "export", "jobs in", "reach", "remarks")
    for row in combinations:
        storage = f"{row.storage} (selected)" if row.selected else row.storage
        export = "yes" if row.works else "no"
        cells = (storage, row.output, export, row.job_store, row.reach, _remarks(row))
        table.add_row(*map(escape, cells), style=None if row.works else "dim")
    return table


def _remarks(row: Combination) -> str:
    able = ", ".join(capability.name for capability in row.capabilities if capability.works)
    unable = ", ".join(capability.name for capability in row.capabilities if not capability.works)
    return row.reason or "; ".join(filter(None, (able, unable and f"no {unable}")))


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("setting", "storage"))
    return table


def load_table(summary: LoadSummary) -> Group:
    """Say what a load did, and what was wrong with what could not be loaded."""
    names = ("files", "read", "created", "updated", "unchanged", "deleted", "bad", "rate")
    counts = _table(*names)
    counts.add_row(
        *(
            f"{count:,}"
            for count in (
                summary.files,
                summary.read,
                summary.created,
                summary.updated,
                summary.unchanged,
                summary.deleted,
                summary.bad,
            )
        ),
        f"{summary.rate:,.0f}/s",
    )
    lines = [f"bad: {problem}" for problem in summary.problems]
    if summary.bad > len(summary.problems):
        lines.append(f"bad: {summary.bad - len(summary.problems):,} more")
    if summary.unresolved:
        lines.append(
            f"{summary.unresolved:,} references to {summary.unresolved_distinct:,} resources that "
            "were not loaded are kept as they are:"
        )
        lines += [f"  {path}: {count:,}" for path, count in summary.unresolved_by_file]
    if summary.skipped:
        lines.append(f"{summary.skipped:,} files were skipped: their names are not those of JSON")
    return Group(counts, *map(Text, lines))


def verification_table(report: VerificationReport) -> Group:
    """Say of every type whether all of it is there."""
    types = _table("list", "type", "resources", "bytes", "verdict")
    for finding in report.findings:
        amounts = (f"{finding.found.count:,}", f"{finding.found.bytes:,}")
        verdict = f"{finding.verdict}: {finding.reason}" if finding.reason else finding.verdict
        types.add_row(*map(escape, (finding.kind, finding.type, *amounts, verdict)))
    whole = "complete" if report.ok else "NOT complete"
    total = f"proof of completeness as of {report.transaction_time}: {whole}"
    if report.continued:
        total += "; the manifest goes on in another page, to be verified by itself"
    return Group(types, Text(total))


def export_table(summary: ExportSummary) -> Group:
    """Say which files an export gave."""
    files = _table("file", "list", "holds", "lines", "bytes")
    for file in summary.files:
        cells = (str(file.path), file.kind, file.type, f"{file.lines:,}", f"{file.size:,}")
        files.add_row(*map(escape, cells))
    forgotten = "" if summary.deleted else "; the server did not delete the export"
    total = (
        f"{summary.lines:,} resources as of {summary.transaction_time} in {summary.seconds:.1f} "
        f"s, every announced count verified{forgotten}"
    )
    return Group(files, Text(total))
