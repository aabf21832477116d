"""The command line."""

import asyncio
import os
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
import uvloop
from rich.console import Console

from helios_core.cli import progress, tables
from helios_core.cli.demo import walk as demo
from helios_core.client import export as client
from helios_core.client import verification as verifying
from helios_core.config import logs
from helios_core.config import matrix as matrices
from helios_core.config import selection as plugins
from helios_core.config.plugins import Plugin, load_all_plugins
from helios_core.config.selection import Selection
from helios_core.config.settings import LogFormat, LogLevel, Settings, read_settings
from helios_core.errors import ConfigurationError, HeliosError
from helios_core.fhir.definitions import FHIRVersion
from helios_core.loading import load as loading
from helios_core.model.exports import Level
from helios_core.server import serve as serving
from helios_core.server import work as working
from helios_core.storage.data_provider import SupportsWrites

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    # A traceback with local variables would show resources and secrets.
    pretty_exceptions_show_locals=False,
)
# A file or a pipe has no width of its own, and cut tables help nobody.
out = Console(width=None if sys.stdout.isatty() else 160)


class Format(StrEnum):
    """How a command prints what it found."""

    TABLE = "table"
    JSON = "json"


class SettingsFormat(StrEnum):
    """How `helios settings` prints: what is in effect, or the reference."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


@app.callback(invoke_without_command=True)
def main(
    *, show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """FHIR Bulk Data Export. Settings are environment variables: see `helios settings`."""
    if show_version:
        out.print(version("helios-fhir"), highlight=False)
        raise typer.Exit


@app.command()
def serve() -> None:
    """Serve, and work on exports; SIGINT or SIGTERM stops cleanly."""
    with _plainly():
        selection = plugins.configure(os.environ)
        current = selection.settings
        _log_as(current)
        _run(
            serving.serve(
                current,
                on_ready=lambda url: _greet(selection, url),
                on_stop=lambda: working.exit_after(current.worker_shutdown_timeout),
            )
        )


@app.command()
def worker() -> None:
    """Work on exports without serving; SIGINT or SIGTERM hands the work back."""
    with _plainly():
        selection = plugins.configure(os.environ)
        current = selection.settings
        _log_as(current)
        workers = current.bulk_export_worker_concurrency
        _run(
            working.work(
                current,
                on_ready=lambda: _say(f"Working with {workers} workers"),
                on_stop=lambda: working.exit_after(current.worker_shutdown_timeout),
            )
        )


@app.command()
def migrate() -> None:
    """Bring the schema of every selected backend up to date."""
    with _plainly():
        _quiet()
        done = _run(plugins.migrate(plugins.configure(os.environ)))
    for name, what in done:
        _say(f"{name}: {what}")
    if not done:
        _say("The selected backends have no schema.")


@app.command()
def settings(
    output: Annotated[
        SettingsFormat, typer.Option("--format", help="table, json or the markdown reference.")
    ] = SettingsFormat.TABLE,
) -> None:
    """
    Print every setting, its value, origin, default and unit; secrets are masked.

    The markdown reference has the settings of every installed plugin, selected or not.
    """
    others: list[Plugin] = []
    if output is SettingsFormat.MARKDOWN:
        others = [plugin for plugin in load_all_plugins() if isinstance(plugin, Plugin)]
    with _plainly():
        rows = tables.setting_rows(plugins.configure(os.environ), os.environ, others=others)
    match output:
        case SettingsFormat.TABLE:
            out.print(tables.settings_table(rows))
        case SettingsFormat.JSON:
            _json(rows)
        case SettingsFormat.MARKDOWN:
            _say(tables.settings_markdown(rows).rstrip())


@app.command("plugins")
def list_plugins(
    output: Annotated[Format, typer.Option("--format", help="table or json.")] = Format.TABLE,
) -> None:
    """Print every installed plugin, whether it is selected, and what is wrong with broken ones."""
    current, _ = read_settings(os.environ)
    rows = tables.plugin_rows(load_all_plugins(), plugins.selected_names(current))
    if output is Format.JSON:
        _json(rows)
    else:
        out.print(tables.plugins_table(rows))


@app.command()
def capabilities(
    *,
    known: Annotated[
        bool, typer.Option("--all", help="Also combinations that are not installed.")
    ] = False,
    output: Annotated[Format, typer.Option("--format", help="table or json.")] = Format.TABLE,
) -> None:
    """Print what each combination of storage and output can do, and why not the rest."""
    current, _ = read_settings(os.environ)
    usable = [plugin for plugin in load_all_plugins() if isinstance(plugin, Plugin)]
    rows = matrices.matrix(usable, selected=_backends(current), known=known)
    rows = matrices.with_problem(rows, _misconfiguration())
    if output is Format.JSON:
        _json(rows)
    else:
        out.print(tables.matrix_table(rows))


def _misconfiguration() -> str:
    """Say why the configuration would stop the start; empty where it would not."""
    try:
        plugins.configure(os.environ)
    except ConfigurationError as error:
        return str(error)
    return ""


@app.command()
def load(
    paths: Annotated[list[Path], typer.Argument(exists=True, help="Files or folders.")],
    *,
    tenant: Annotated[str | None, typer.Option(help="Default: HFS_DEFAULT_TENANT.")] = None,
    fhir_version: Annotated[
        FHIRVersion | None, typer.Option(help="Default: HFS_DEFAULT_FHIR_VERSION.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad line.")] = False,
) -> None:
    """Load NDJSON, Bundles and single resources, plain or .gz; loading again is an update."""
    with _plainly():
        _quiet()
        selection = plugins.configure(os.environ)
        current = selection.settings
        summary = _run(
            _load(
                selection,
                paths,
                tenant=tenant or current.default_tenant,
                fhir_version=fhir_version or current.default_fhir_version,
                strict=strict,
            )
        )
    out.print(tables.load_table(summary))
    raise typer.Exit(1 if summary.bad else 0)


@app.command()
def export(  # noqa: PLR0913  one parameter per option
    url: Annotated[str, typer.Argument(help="Base address of a Bulk Data server.")],
    *,
    to: Annotated[Path, typer.Option(help="Folder for the files.", file_okay=False)],
    level: Annotated[Level | None, typer.Option(help="Default: group with --group.")] = None,
    group: Annotated[str | None, typer.Option(help="Id of the Group to export.")] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Resource types, repeated or with commas.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Only changes after this instant.")] = None,
    until: Annotated[str | None, typer.Option(help="Only changes before this instant.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Sent as X-Tenant-ID.")] = None,
) -> None:
    """Export from a Bulk Data server into a folder and verify what arrives."""
    level = level or (Level.GROUP if group else Level.SYSTEM)
    if (level is Level.GROUP) != (group is not None):
        raise typer.BadParameter("--level group needs --group, and no other level takes one")
    order = client.ClientRequest(
        base_url=url,
        level=level,
        group_id=group,
        types=[name for value in types or () for name in value.split(",") if name],
        since=since,
        until=until,
        headers={"X-Tenant-ID": tenant} if tenant else {},
    )
    with _plainly():
        _quiet()
        with progress.export_progress() as tell:
            summary = _run(client.export(order, to, on_progress=tell))
        out.print(tables.export_table(summary))
        report = verifying.verify_if_proven(summary.manifest, to)
    if report is None:
        _say("The server gave no proof of completeness.")
    else:
        out.print(tables.verification_table(report))
        raise typer.Exit(0 if report.ok else 1)


@app.command()
def verify(
    manifest: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A manifest as it was received.")
    ],
    *,
    folder: Annotated[
        Path | None,
        typer.Option("--dir", help="Folder of the files; default: that of the manifest."),
    ] = None,
) -> None:
    """Prove from downloaded files, plain or .gz, that nothing of an export is missing."""
    with _plainly():
        report = verifying.verify(manifest.read_bytes(), folder or manifest.parent)
    out.print(tables.verification_table(report))
    raise typer.Exit(0 if report.ok else 1)


@app.command("demo")
def demonstrate() -> None:
    """Make data, load it, serve, export at all three levels and check every count."""
    with _plainly():
        _quiet()
        _run(demo.run_demo(Path("data") / "demo", out))


async def _load(
    selection: Selection,
    paths: list[Path],
    *,
    tenant: str,
    fhir_version: FHIRVersion,
    strict: bool,
) -> loading.LoadSummary:
    base_url = selection.settings.base_url
    async with selection.data_provider.open() as provider:
        if not isinstance(provider, SupportsWrites):
            raise ConfigurationError(
                f"{selection.data_provider.plugin.origin} cannot be written to"
            )
        with progress.load_progress() as tell:
            return await loading.load(
                paths,
                provider,
                tenant=tenant,
                fhir_version=fhir_version,
                strict=strict,
                on_progress=tell,
                base_urls=(base_url,) if base_url else (),
            )


def _greet(selection: Selection, url: str) -> None:
    _say(f"Listening on {url}")
    for plugin in selection.plugins:
        offers = ", ".join((*plugin.offers, *(["observer"] if plugin.observer else [])))
        _say(f"  {plugin.origin}: {offers}")
    rows = matrices.matrix(selection.plugins, selected=_backends(selection.settings))
    out.print(tables.matrix_table(rows))


def _backends(current: Settings) -> tuple[str, str]:
    return current.storage_backend, current.bulk_export_output_backend


@contextmanager
def _plainly() -> Iterator[None]:
    """Tell what went wrong in words, not with a traceback."""
    try:
        yield
    except HeliosError as error:
        typer.echo(f"helios: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, ConfigurationError) else 1) from None


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


def _log_as(current: Settings) -> None:
    logs.configure_logging(current.log_level, current.log_format)


def _quiet() -> None:
    # These commands report on standard output themselves.
    logs.configure_logging(LogLevel.ERROR, LogFormat.CONSOLE, to=sys.stderr)


def _say(line: str) -> None:
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def _json(rows: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2))
