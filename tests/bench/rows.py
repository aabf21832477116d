"""What a benchmark measured, and how it is shown."""

from dataclasses import dataclass

from rich.table import Table

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Row:
    """One line of the result."""

    what: str
    measured: str
    target: str = ""
    met: bool | None = None
    """None where there is no target."""


class Rows(list[Row]):
    """The result so far."""

    def add(self, what: str, measured: str, target: str = "", *, met: bool | None = None) -> None:
        self.append(Row(what, measured, target, met))

    def add_memory(self, what: str, peak: int) -> None:
        self.add(what, f"{peak / MEGABYTE:,.0f} MB", "< 256 MB", met=peak < 256 * MEGABYTE)


def table(rows: list[Row], title: str) -> Table:
    shown = Table("measured", "result", "target", "", title=title)
    for row in rows:
        verdict = {None: "", True: "ok", False: "MISS"}[row.met]
        style = "bold" if row.met is False else None
        shown.add_row(row.what, row.measured, row.target, verdict, style=style)
    return shown
