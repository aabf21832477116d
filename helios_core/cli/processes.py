"""The commands that run the server and its workers, and migrate what they use."""

import os

from helios_core.cli import tables
from helios_core.cli.terminal import log_errors_only, out, print_line, run
from helios_core.config import matrix, selection
from helios_core.config.logs import configure_logging
from helios_core.config.selection import Selection
from helios_core.server.serve import serve
from helios_core.server.work import exit_after, work


def run_server(*, host: str | None, port: int | None) -> None:
    """Serve and work on exports until SIGINT or SIGTERM; None means what the settings say."""
    options = {"HFS_SERVER_HOST": host, "HFS_SERVER_PORT": port}
    given = {name: str(value) for name, value in options.items() if value is not None}
    chosen = selection.configure({**os.environ, **given})
    settings = chosen.settings
    configure_logging(settings.log_level, settings.log_format)
    run(
        serve(
            settings,
            on_ready=lambda url: _greet(chosen, url),
            on_stop=lambda: exit_after(settings.worker_shutdown_timeout),
        )
    )


def run_worker() -> None:
    """Work on exports until SIGINT or SIGTERM."""
    settings = selection.configure(os.environ).settings
    configure_logging(settings.log_level, settings.log_format)
    workers = settings.bulk_export_worker_concurrency
    run(
        work(
            settings,
            on_ready=lambda: print_line(f"Working with {workers} workers"),
            on_stop=lambda: exit_after(settings.worker_shutdown_timeout),
        )
    )


def migrate_backends() -> None:
    """Migrate the schema of every selected backend and print what was done."""
    log_errors_only()
    done = run(selection.migrate(selection.configure(os.environ)))
    for name, what in done:
        print_line(f"{name}: {what}")
    if not done:
        print_line("The selected backends have no schema.")


def _greet(chosen: Selection, url: str) -> None:
    print_line(f"Listening on {url}")
    for plugin in chosen.plugins:
        offers = ", ".join((*plugin.offers, *plugin.extensions))
        print_line(f"  {plugin.origin}: {offers}")
    rows = matrix.matrix(chosen.plugins, selected=chosen.settings.backend_names)
    out.print_table(tables.matrix_table(rows))
