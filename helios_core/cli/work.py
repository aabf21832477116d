"""The commands that run workers and migrate backends, without loading anything of HTTP."""

import os
from contextlib import suppress

from helios_core.cli.terminal import log_errors_only, print_line, run
from helios_core.config import selection
from helios_core.config.logs import configure_logging
from helios_core.server.work import exit_after, work


def run_worker() -> None:
    """Work on exports until SIGINT or SIGTERM."""
    settings = selection.configure(os.environ).settings
    configure_logging(settings.log_level, settings.log_format)
    workers = settings.bulk_export_worker_concurrency
    run(
        work(
            settings,
            on_ready=lambda: _greet(workers),
            on_stop=lambda: exit_after(settings.worker_shutdown_timeout),
        )
    )


def _greet(workers: int) -> None:
    with suppress(OSError):
        print_line(f"Working with {workers} workers")


def migrate_backends() -> None:
    """Migrate the schema of every selected backend and print the results."""
    log_errors_only()
    results = run(selection.migrate(selection.configure(os.environ)))
    for name, report in results:
        print_line(f"{name}: {report}")
    if not results:
        print_line("The selected backends have no schema.")
