"""Shared by all commands: printing, logging and running coroutines."""

import asyncio
import re
import sys
import textwrap
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, Final, TypeVar

import click
import msgspec
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from helios_core.config.logs import configure_logging
from helios_core.config.settings import LogFormat, LogLevel

T = TypeVar("T")

CONTROLS: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
"""Characters that control a terminal or reverse the direction of text; not line breaks, tabs."""


def printable(text: str) -> str:
    """
    Return a text without the characters that control a terminal.

    Servers choose some texts: reasons, types, dates. They must not be able to change what else is
    on the screen, or what a copied line means.
    """
    return CONTROLS.sub("", text)


class Output(Console):
    """
    Standard output: tables on a terminal, tab-separated values in a file or a pipe.

    A table that is too wide for a terminal becomes a list there, so that no word is broken.
    """

    def print(self, *objects: Any, **options: Any) -> None:  # noqa: ANN401  as rich declares it
        """Print like rich on a terminal, and plain text elsewhere."""
        is_plain = all(isinstance(item, Group | Table | Text | str) for item in objects)
        if self.file.isatty() or not is_plain:
            super().print(*map(self.fitted, objects), **options)
            return
        for item in objects:
            for line in plain_lines(item):
                self.file.write(f"{printable(line)}\n")
        self.file.flush()

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render like rich, without the control characters of texts."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def fitted(self, item: Any) -> Any:  # noqa: ANN401  whatever rich prints
        """Return what a terminal shows: each table that is too wide becomes a list."""
        match item:
            case Group():
                return Group(*map(self.fitted, item.renderables))
            case Table():
                unlimited = self.options.update(max_width=UNLIMITED)
                width = Measurement.get(self, unlimited, item).maximum
                return Group(*_records(item)) if width > self.width else item
        return item


UNLIMITED = 10_000
"""A width in characters that no table reaches."""

out = Output()


def _records(table: Table) -> Iterator[Text | Padding]:
    """Yield the first cell of each row, and below it the others, each with its heading."""
    headings = [_cell(column.header) for column in table.columns]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    for row, cells in zip(table.rows, rows, strict=True):
        first, *others = map(_cell, cells)
        style = row.style or ""
        named = zip(headings[1:], others, strict=True)
        yield Text(first, style="bold", overflow="fold")
        words = "; ".join(f"{heading}: {cell}" for heading, cell in named if cell)
        yield Padding(Text(words, style=style, overflow="fold"), (0, 0, 0, 2))


def plain_lines(item: object) -> Iterator[str]:
    """Yield the lines of an object as plain text; tabs separate the cells of table rows."""
    match item:
        case Group():
            for part in item.renderables:
                yield from plain_lines(part)
        case Table():
            yield "\t".join(_cell(column.header) for column in item.columns)
            for row in zip(*(column.cells for column in item.columns), strict=True):
                yield "\t".join(map(_cell, row))
        case Text():
            yield item.plain
        case _:
            yield str(item)


def _cell(content: object) -> str:
    text = content.plain if isinstance(content, Text) else Text.from_markup(str(content)).plain
    return " ".join(text.split())


def print_line(line: str) -> None:
    """Print a line verbatim, without markup, colours or wrapping."""
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def print_error(text: object) -> None:
    """Print a line to standard error."""
    click.echo(printable(f"helios: {text}"), err=True)


def print_item(text: str) -> None:
    """Print an item of a list, wrapped at 80 columns, on a terminal or not."""
    lines = textwrap.wrap(
        text,
        width=80,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    print_line("\n".join(lines))


def print_json(rows: object) -> None:
    """Print a value that msgspec can encode, as indented JSON."""
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
    """Log only errors, to standard error: the command reports on standard output."""
    configure_logging(LogLevel.ERROR, LogFormat.CONSOLE, to=sys.stderr)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on uvloop and return its result."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)
