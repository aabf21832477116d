"""The progress bar of long commands, on standard error."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)


def progress_bar() -> Progress:
    """Return a progress bar whose tasks have a field `words`, which is shown beside the bar."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[words]}", markup=False),
        # What remains, and at the end what it took: two times side by side look like one thing.
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )
