"""Progress bars of long commands, on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from helios_core.client import export as client
from helios_core.loading import load as loads


@contextmanager
def load_progress() -> Iterator[Callable[[loads.LoadProgress], None]]:
    """Show a load: how much of the files is done, resources per second, time to go."""
    with _bars("{task.fields[words]}") as bars:
        task = bars.add_task("scanning", words="")

        def tell(now: loads.LoadProgress) -> None:
            elapsed = bars.tasks[task].elapsed or 0
            rate = now.resources / elapsed if elapsed else 0
            bars.update(
                task,
                description=now.phase.value,
                completed=now.bytes_done,
                total=now.bytes_total,
                words=f"{now.resources:,} resources, {rate:,.0f}/s" if now.resources else "",
            )

        yield tell


@contextmanager
def export_progress(label: str = "") -> Iterator[Callable[[client.ExportProgress], None]]:
    """Show an export: what the server says, then how many resources have arrived."""
    with _bars("{task.fields[words]}") as bars:
        task = bars.add_task("starting", total=None, words="")

        def tell(now: client.ExportProgress) -> None:
            fetching = now.phase in (client.ExportPhase.DOWNLOADING, client.ExportPhase.DONE)
            received = (
                f"{now.files_done} of {now.files_total} files, {now.lines_done:,} lines, "
                f"{now.bytes_received / 1e6:,.1f} MB"
            )
            bars.update(
                task,
                description=f"{label} {now.phase.value}".strip(),
                completed=now.files_done if fetching else 0,
                total=now.files_total if fetching else None,
                words=received if fetching else now.message,
            )

        yield tell


def _bars(words: str) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn(words),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
