"""Which cells of the test matrix, rows times FHIR versions, a run tests."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import click

VARIABLE = "HFS_TEST_MATRIX"
"""Selects the cells that are tested: `all`, one as `postgres/s3@R5`, else those of a day."""
DAY = "HFS_TEST_MATRIX_DAY"
"""The day of the year that selects cells, the same for all processes of a run."""
TURNS = 3
"""Days in which all cells of the versions but the first are tested once."""


class Cell(NamedTuple):
    """One row of the matrix with one FHIR version."""

    row: str
    version: str

    def __str__(self) -> str:
        return f"{self.row}@{self.version}"


def selected(rows: Sequence[str], versions: Sequence[str], choice: str, day: int) -> list[Cell]:
    """
    Return the cells that a run tests.

    By default these are all rows for the first version, and every third of the other cells, so
    that three days in a row have them all.
    """
    cells = [Cell(row, version) for version in versions for row in rows]
    if choice == "all":
        return cells
    if choice:
        chosen = [cell for cell in cells if str(cell) == choice]
        if not chosen:
            raise click.UsageError(
                f"{choice!r} is no cell of the matrix; it has to be all, or ROW@VERSION.\n"
                f"Versions: {', '.join(versions)}\nRows:\n  " + "\n  ".join(rows)
            )
        return chosen
    first, others = cells[: len(rows)], cells[len(rows) :]
    return first + others[day % TURNS :: TURNS]


def today() -> int:
    """Return the day of the year, as whoever started the run saw it."""
    return int(os.environ.setdefault(DAY, f"{datetime.now(UTC):%j}"))
