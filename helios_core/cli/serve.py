"""The command that runs the server."""

import os
from contextlib import suppress

from helios_core.cli import tables
from helios_core.cli.terminal import print_item, print_line, run
from helios_core.config import matrix, selection
from helios_core.config.logs import configure_logging
from helios_core.config.selection import Selection
from helios_core.server.serve import serve
from helios_core.server.work import exit_after


def run_server(*, host: str | None, port: int | None) -> None:
    """Serve and work on exports until SIGINT or SIGTERM; None leaves an option to the settings."""
    options = {"HFS_SERVER_HOST": host, "HFS_SERVER_PORT": port}
    # The processes of workers read the environment, too.
    os.environ.update({name: str(value) for name, value in options.items() if value is not None})
    chosen = selection.configure(os.environ)
    settings = chosen.settings
    configure_logging(settings.log_level, settings.log_format)
    run(
        serve(
            settings,
            on_ready=lambda url: _greet(chosen, url),
            on_stop=lambda: exit_after(settings.worker_shutdown_timeout),
        )
    )


def _greet(chosen: Selection, url: str) -> None:
    # The server works on if nobody reads this, as it does without readers of its log.
    with suppress(OSError):
        print_line(f"Listening on {url}")
        for plugin in chosen.plugins:
            print_item(f"{plugin.origin}: {', '.join((*plugin.offers, *plugin.extensions))}")
        rows = matrix.matrix(
            chosen.plugins,
            selected=chosen.settings.backend_names,
            job_store=chosen.settings.bulk_export_job_store,
        )
        # Only the selected plugins are imported, so nothing is known about other combinations.
        for row in rows:
            if row.selected:
                print_item(tables.combination_text(row))
