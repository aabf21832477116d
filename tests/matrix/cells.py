"""
The cells of the test matrix: each row of the capability matrix times the FHIR versions.

    helios capabilities --all --format json | python -m tests.matrix.cells

prints the rows as one JSON list, for the jobs of the workflow.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

import click
import pytest

from helios_core.config.matrix import Combination, matrix
from helios_core.config.plugins import load_all_plugins
from tests.matrix.corpora import examples

VARIABLE = "HFS_TEST_MATRIX"
"""Selects the cells that are tested: `all`, one as `postgres/s3@R5`, else those of a day."""
DAY = "HFS_TEST_MATRIX_DAY"
"""The day of the year that selects cells, the same for all processes of a run."""
FIRST = "R4"
"""The FHIR version of which every row is tested every day."""
VERSIONS = (FIRST, "R4B", "R5", *(["R6"] if examples("R6") else []))
TURNS = 3
"""Days in which all cells of the other versions are tested once."""


class Cell(NamedTuple):
    """One row of the matrix with one FHIR version."""

    row: str
    version: str

    def __str__(self) -> str:
        return f"{self.row}@{self.version}"


@cache
def rows() -> Mapping[str, Combination]:
    """Return the rows of `helios capabilities --all` by their names, without those in memory."""
    listed = matrix(load_all_plugins(), selected=("sqlite", "local-fs"), known=True)
    return {row.name: row for row in listed if "memory" not in row.name.split("/")}


def names(capabilities: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the rows that `helios capabilities` prints, without those in memory."""
    listed = [(row["data_provider"], row["output_store"]) for row in capabilities]
    return ["/".join(row) for row in listed if "memory" not in row]


def selected(listed: Sequence[str], choice: str, day: int) -> list[Cell]:
    """
    Return the cells that a run tests.

    By default these are all rows for `FIRST`, and of the other cells every third, so that three
    days in a row have them all.
    """
    cells = [Cell(row, version) for version in VERSIONS for row in listed]
    if choice == "all":
        return cells
    if choice:
        chosen = [cell for cell in cells if str(cell) == choice]
        if not chosen:
            raise pytest.UsageError(
                f"{VARIABLE} is {choice!r}, which is no cell of the matrix; it is all, or a row,"
                f" '@' and a version.\nRows: {', '.join(listed)}\nVersions: {', '.join(VERSIONS)}"
            )
        return chosen
    others = [cell for cell in cells if cell.version != FIRST]
    return [cell for cell in cells if cell.version == FIRST] + others[day % TURNS :: TURNS]


def today() -> int:
    """Return the day of the year, as whoever started the run saw it."""
    return int(os.environ.setdefault(DAY, f"{datetime.now(UTC):%j}"))


def of_this_run() -> list[Cell]:
    """Return the cells that this run tests."""
    return selected(list(rows()), os.environ.get(VARIABLE, ""), today())


if __name__ == "__main__":
    click.echo(json.dumps(names(json.load(sys.stdin))))
