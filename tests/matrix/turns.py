"""Which cells of the test matrix, rows times FHIR versions, a run tests."""

from collections.abc import Sequence
from typing import NamedTuple

import click

from tests.turns import in_turn

VARIABLE = "HFS_TEST_MATRIX"
"""Selects the one cell that is tested, for example `postgres/s3@R5`."""


class Cell(NamedTuple):
    """One row of the matrix with one FHIR version."""

    row: str
    version: str

    def __str__(self) -> str:
        return f"{self.row}@{self.version}"


def selected(rows: Sequence[str], versions: Sequence[str], choice: str, turn: str) -> list[Cell]:
    """
    Return the cells that a run tests.

    Without a choice these are all rows for the first version, and the other cells by turns.
    """
    cells = [Cell(row, version) for version in versions for row in rows]
    if not choice:
        return [*cells[: len(rows)], *in_turn(cells[len(rows) :], turn)]
    chosen = [cell for cell in cells if str(cell) == choice]
    if not chosen:
        raise click.UsageError(
            f"{choice!r} is no cell of the matrix; it has to be ROW@VERSION.\n"
            f"Versions: {', '.join(versions)}\nRows:\n  " + "\n  ".join(rows)
        )
    return chosen
