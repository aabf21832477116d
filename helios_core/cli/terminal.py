"""What the commands have in common: how they print, log and run coroutines."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from helios_core.config.logs import configure_logging
from helios_core.config.settings import LogFormat, LogLevel

T = TypeVar("T")

# A file or a pipe has no width of its own, and truncated tables help nobody.
out = Console(width=None if sys.stdout.isatty() else 160)


def print_line(line: str) -> None:
    """Print a line as it is: no markup, no colours, not wrapped."""
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def print_json(rows: object) -> None:
    """Print what msgspec can encode as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2))


def new_table(*columns: str) -> Table:
    """Return an empty table in the style of all commands."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            column, overflow="fold", no_wrap=column in ("setting", "data provider", "id")
        )
    return table


def log_errors_only() -> None:
    """Log to standard error, and errors only, for a command that reports on standard output."""
    configure_logging(LogLevel.ERROR, LogFormat.CONSOLE, to=sys.stderr)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on uvloop and return its result."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)
