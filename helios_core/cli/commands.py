"""
The commands of `helios`: their names, options and help.

Each command imports the module with its implementation only when it runs, so that
`helios --version` and `helios --help` load nothing of the server.
"""

import os
from pathlib import Path
from typing import Any, Literal

import click

from helios_core.errors import ConfigurationError, HeliosError


class Commands(click.Group):
    """
    The commands in the order of their declaration, then those of plugins that settings name.

    Errors are printed without a traceback, also errors of plugins' commands.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click passes it
        """Return the names in the order in which the help lists them."""
        if not (os.environ.get("HFS_PLUGINS") or os.environ.get("HFS_AUTH_PROVIDER")):
            return list(self.commands)
        from helios_core.cli.plugin_commands import usable_commands

        return [*self.commands, *usable_commands()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """
        Return the command of a name; the server's own commands come first.

        Raises:
            ConfigurationError: The command belongs to a plugin that cannot be used.
        """
        if own := super().get_command(ctx, cmd_name):
            return own
        from helios_core.cli.plugin_commands import advice_on, plugin_command

        command = plugin_command(cmd_name)
        if command is None and (advice := advice_on(cmd_name)):
            raise click.UsageError(f"No such command {cmd_name!r}. {advice}", ctx)
        return command

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  as click declares it
        """Run a command; exit with 2 if the configuration is wrong and 1 after other errors."""
        try:
            return super().invoke(ctx)
        except click.UsageError:
            raise
        except (HeliosError, click.ClickException) as error:
            from helios_core.cli.terminal import print_error

            print_error(error)
            raise click.exceptions.Exit(
                2 if isinstance(error, ConfigurationError) else 1
            ) from None


@click.group(cls=Commands)
@click.version_option(package_name="helios-fhir", message="%(version)s")
def app() -> None:
    """FHIR Bulk Data Export. Settings are environment variables: see `helios settings`."""


@app.command()
@click.option("--host", help="Address to listen on; default: HFS_SERVER_HOST.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on, 0 for a free one; default: HFS_SERVER_PORT.",
)
def serve(*, host: str | None, port: int | None) -> None:
    """Serve, and work on exports; SIGINT or SIGTERM stops cleanly."""
    from helios_core.cli.serve import run_server

    run_server(host=host, port=port)


@app.command()
def worker() -> None:
    """Work on exports without serving; SIGINT or SIGTERM stops it."""
    from helios_core.cli.work import run_worker

    run_worker()


@app.command()
def migrate() -> None:
    """Bring the schema of every selected backend up to date."""
    from helios_core.cli.work import migrate_backends

    migrate_backends()


@app.command()
@click.option(
    "--format",
    "output",
    type=click.Choice(["table", "json", "markdown"]),
    default="table",
    show_default=True,
    help="Output format.",
)
@click.option("--changed", is_flag=True, help="Only settings that the environment sets.")
def settings(*, output: Literal["table", "json", "markdown"], changed: bool) -> None:
    """
    Print every setting, its value, origin, default and unit.

    Secrets are masked, including passwords and tokens in URLs. The Markdown reference has the
    settings of every installed plugin, selected or not.
    """
    from helios_core.cli import configuration

    configuration.print_settings(output, changed=changed)


table_or_json = click.option(
    "--format",
    "output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Output format.",
)


@app.command()
@table_or_json
def plugins(output: Literal["table", "json"]) -> None:
    """Print every plugin with what it offers, or why it is broken."""
    from helios_core.cli import configuration

    configuration.print_plugins(output)


@app.command()
@click.option("--all", "known", is_flag=True, help="Also combinations that are not installed.")
@table_or_json
def capabilities(*, known: bool, output: Literal["table", "json"]) -> None:
    """Print what each data provider can do with each output store."""
    from helios_core.cli import configuration

    configuration.print_capabilities(output, known=known)


@app.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--tenant", help="Default: HFS_DEFAULT_TENANT.")
@click.option(
    "--fhir-version",
    type=click.Choice(["R4", "R4B", "R5", "R6"]),
    help="Default: HFS_DEFAULT_FHIR_VERSION.",
)
@click.option("--strict", is_flag=True, help="Stop at the first bad resource.")
@click.option("--assign-ids", is_flag=True, help="Assign ids to resources without a valid one.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def load(  # noqa: PLR0913 - one parameter for each option
    paths: tuple[Path, ...],
    *,
    tenant: str | None,
    fhir_version: str | None,
    strict: bool,
    assign_ids: bool,
    as_json: bool,
) -> None:
    """
    Load NDJSON, Bundles and single resources, plain or .gz.

    PATHS are files or folders. Loading again updates what has changed.

    The exit code is 1 if something was not loaded or could not be linked, 130 after Ctrl-C.
    """
    from helios_core.cli.load import LoadChoices, load_paths

    choices = LoadChoices(
        tenant=tenant,
        fhir_version=fhir_version,
        strict=strict,
        assign_ids=assign_ids,
        json=as_json,
    )
    summary = load_paths(paths, choices)
    raise click.exceptions.Exit(130 if summary.interrupted else int(not summary.is_good))


@app.command()
@click.argument("url", required=False)
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the files: empty or new.",
)
@click.option(
    "--resume",
    type=click.Path(file_okay=False, path_type=Path),
    help="Continue the unfinished export in this folder.",
)
@click.option(
    "--discard",
    is_flag=True,
    help="With --resume: delete that export on the server instead.",
)
@click.option(
    "--level",
    type=click.Choice(["system", "patient", "group"]),
    help="Default: group with --group, else system.",
)
@click.option("--group", help="Id of the Group to export.")
@click.option("--type", "types", multiple=True, help="Resource types, repeated or with commas.")
@click.option("--since", help="Only changes after this instant.")
@click.option("--until", help="Only changes before this instant.")
@click.option(
    "--type-filter",
    "type_filters",
    multiple=True,
    help="A search, 'Type?parameter=value'; repeated.",
)
@click.option("--elements", multiple=True, help="Root elements, repeated or with commas.")
@click.option(
    "--patient", "patients", multiple=True, help="Ids of Patients, repeated or with commas."
)
@click.option("--associated", multiple=True, help="Sent as includeAssociatedData; repeated.")
@click.option("--organize-by", help="Type by whose instances files are organized.")
@click.option("--tenant", help="Sent as X-Tenant-ID.")
@click.option("--header", "headers", multiple=True, help="'Name: value'; repeated.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with a bearer token; read again when the server refuses it.",
)
@click.option(
    "--client-id",
    help="Id of a client of SMART Backend Services, which gets tokens with --key.",
)
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    help="File with the client's private key: a JWK, a JWK set or PEM; ES384 or RS384.",
)
@click.option("--key-id", help="The kid of the key, if the file has several or none.")
@click.option("--scope", help="Scopes to request.  [default: system/*.read]")
@click.option(
    "--compress",
    type=click.Choice(["keep", "none", "zstd"]),
    default="none",
    show_default=True,
    help="How to store the files; keep: as the server sends them.",
)
@click.option(
    "--allow-errors", is_flag=True, help="Exit with 0 even if the server reports losses."
)
@click.option("--json", is_flag=True, help="Print events, one JSON object per line.")
@click.option("--quiet", is_flag=True, help="Print nothing but problems.")
@click.pass_context
def export(context: click.Context, /, **options: Any) -> None:  # noqa: ANN401  one per option
    """
    Export from a Bulk Data server and verify what arrives.

    URL is the base address of the server, or a complete kick-off URL in single quotes.

    The exit code is 3 if the export is incomplete, 130 after Ctrl-C. An unfinished export is
    continued with --resume.
    """
    folder, with_resume = options["resume"], {"resume", "discard", *_ALLOWED_WITH_RESUME}
    passed = {
        name
        for name in options
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    if folder is not None and not passed <= with_resume:
        raise click.UsageError(
            "--resume continues what was requested before, which cannot be changed by "
            + ", ".join(_as_typed(context, passed - with_resume))
        )
    if options["discard"] and folder is None:
        meant = options["to"] or options["url"] or "FOLDER"
        raise click.UsageError(
            f"--discard needs a folder: helios export --resume {meant} --discard"
        )
    if folder is None and (options["url"] is None or options["to"] is None):
        raise click.UsageError("Expected: helios export URL --to FOLDER, or --resume FOLDER")
    if options["json"] and options["quiet"]:
        raise click.UsageError("--json and --quiet exclude each other")
    for name in ("types", "elements", "patients"):
        options[name] = [part for text in options[name] for part in text.split(",") if part]
    _require_client("export")
    from helios_core.cli.export import ExportChoices, export_to_folder

    raise click.exceptions.Exit(export_to_folder(ExportChoices(**options)))


def _as_typed(context: click.Context, names: set[str]) -> list[str]:
    """Return parameters as they are typed: `--type`, or `URL`."""
    return sorted(
        parameter.opts[0] if isinstance(parameter, click.Option) else parameter.opts[0].upper()
        for parameter in context.command.params
        if parameter.name in names
    )


_ALLOWED_WITH_RESUME = (
    *("headers", "token_file", "client_id", "key", "key_id", "scope"),
    *("allow_errors", "json", "quiet"),
)
"""The options that say how to export, not what; an export is resumed with any of them."""


@app.command()
@click.argument("download", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of the files; default: that of the manifest.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def verify(download: Path, *, folder: Path | None, as_json: bool) -> None:
    """
    Prove from downloaded files that nothing is missing.

    DOWNLOAD is the folder that `helios export` wrote, or the manifest as it was received. The
    files may be plain, .gz or .zst.
    """
    _require_client("verify")
    from helios_core.cli.verify import verify_download

    complete = verify_download(download, folder, as_json=as_json)
    raise click.exceptions.Exit(0 if complete else 1)


@app.command()
def demo() -> None:
    """
    Make data, load it, serve it, export it, check every count.

    Exports at all three levels. Everything is in data/demo, which is emptied first.
    """
    _require_client("demo")
    from helios_core.cli.demo.walk import show_demo

    show_demo(Path("data") / "demo")


@app.command()
@table_or_json
def doctor(output: Literal["table", "json"]) -> None:
    """
    Check settings, backends, clocks and disks; say what to do.

    Plugins and permissions are checked as well.
    The check stores, reads and removes a small job and a small file.

    The exit code is 0 if all is well, 1 if a check fails, 2 if the configuration is wrong
    or names a database file that is not there.
    """
    from helios_core.cli.doctor import examine

    raise click.exceptions.Exit(examine(output))


@app.group()
def index() -> None:
    """Show the state of the search index, or rebuild it."""


@index.command()
@table_or_json
def status(*, output: Literal["table", "json"]) -> None:
    """
    Show how far the index of each tenant and version has come.

    Searches and exports are exact, however far it lags behind.
    """
    from helios_core.cli.index import show_status

    show_status(output)


@index.command()
@click.option("--tenant", help="Only the index of this tenant.")
@click.option(
    "--fhir-version",
    type=click.Choice(["R4", "R4B", "R5", "R6"]),
    help="Only the index of this FHIR version.",
)
@table_or_json
def rebuild(
    *, tenant: str | None, fhir_version: str | None, output: Literal["table", "json"]
) -> None:
    """
    Discard the search index and rebuild it.

    This is necessary after a backup was restored.
    Meanwhile HFS_SEARCH_INDEX_DOWN says what searches do.
    """
    from helios_core.cli.index import rebuild_index

    rebuild_index(tenant=tenant, fhir_version=fhir_version, output=output)


@app.group()
def jobs() -> None:
    """
    List, watch and end exports.

    The commands work on the job store, with or without a server.
    """


job_id = click.argument("job_id", metavar="ID")
job_ids = click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
of_tenant = click.option("--tenant", help="Only exports of this tenant.")


@jobs.command(name="list")
@of_tenant
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(["accepted", "in-progress", "complete", "error", "cancelled"]),
    help="Only exports in this status; may be repeated.",
)
@click.option("--owner", help="Only exports of this client; empty for those without a client.")
@click.option("--older-than", help="Only exports started at least this long ago: 90s, 6h, 2d.")
@click.option("--newer-than", help="Only exports started less than this long ago.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=50,
    show_default=True,
    help="Maximum number of exports.",
)
@click.option("--after", metavar="ID", help="Continue after this export.")
@table_or_json
def list_(  # noqa: PLR0913  one parameter per option
    *,
    tenant: str | None,
    statuses: tuple[str, ...],
    owner: str | None,
    older_than: str | None,
    newer_than: str | None,
    limit: int,
    after: str | None,
    output: Literal["table", "json"],
) -> None:
    """List exports, the newest first."""
    from helios_core.cli.jobs import ListChoices, list_jobs, parse_duration
    from helios_core.model.jobs import JobQuery, JobStatus

    query = JobQuery(
        tenant=tenant,
        owner=owner,
        statuses=frozenset(map(JobStatus, statuses)) or None,
        older_than=parse_duration(older_than),
        younger_than=parse_duration(newer_than),
    )
    list_jobs(ListChoices(query=query, limit=limit, after=after, output=output))


@jobs.command()
@job_id
@of_tenant
@table_or_json
def show(job_id: str, *, tenant: str | None, output: Literal["table", "json"]) -> None:
    """
    Show an export.

    ID is its id, or at least the first four characters, if no other id begins with them.
    """
    from helios_core.cli.jobs import show_job

    show_job(job_id, tenant=tenant, output=output)


@jobs.command()
@job_ids
@of_tenant
def cancel(job_ids: tuple[str, ...], *, tenant: str | None) -> None:
    """
    Cancel exports.

    Workers stop within a second, and a server removes the files.
    """
    from helios_core.cli.jobs import cancel_jobs

    cancel_jobs(job_ids, tenant=tenant)


@jobs.command()
@job_ids
@of_tenant
def delete(job_ids: tuple[str, ...], *, tenant: str | None) -> None:
    """
    Cancel exports and remove them with their files.

    Exports that cannot be read are removed as well.
    """
    from helios_core.cli.jobs import delete_jobs

    delete_jobs(job_ids, tenant=tenant)


@jobs.command()
@click.argument("job_id", metavar="[ID]", required=False)
@of_tenant
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two queries.",
)
def watch(job_id: str | None, *, tenant: str | None, interval: float) -> None:
    """
    Watch the active exports until Ctrl-C, or one until it ends.

    For one export, the exit code is 0 if it is complete, else 1. Without a terminal, each change
    is printed as a line.
    """
    from datetime import timedelta

    from helios_core.cli.jobs import watch_jobs

    interval_time = timedelta(seconds=interval)
    raise click.exceptions.Exit(watch_jobs(job_id, tenant=tenant, interval=interval_time))


def _require_client(command: str) -> None:
    """Raise ConfigurationError if the libraries of the extra `client` are not installed."""
    from importlib.util import find_spec

    if not all(map(find_spec, ("httpx", "joserfc", "stamina", "zstandard"))):
        raise ConfigurationError(
            f"{command} needs the Bulk Data client: pip install 'helios-fhir[client]'"
        )
