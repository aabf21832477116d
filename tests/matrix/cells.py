"""
The rows of the capability matrix and the FHIR versions that they are tested with.

    helios capabilities --all --format json | python -m tests.matrix.cells

prints the rows as one JSON list, for the jobs of the workflow; with the name of a cell, it checks
that there is one.
"""

import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import click

from helios_core.config.matrix import Combination, matrix
from tests import backends
from tests.matrix.corpora import examples
from tests.matrix.turns import VARIABLE, Cell, selected
from tests.turns import today

VERSIONS = ("R4", "R4B", "R5", *(["R6"] if examples("R6") else []))
"""The FHIR versions; every row is tested every day with the first one."""


@cache
def rows() -> Mapping[str, Combination]:
    """Return the rows of `helios capabilities --all` by their names, without those in memory."""
    listed = matrix(backends.plugins(), selected=("sqlite", "local-fs"), known=True)
    return {row.name: row for row in listed if "memory" not in row.name.split("/")}


def names(capabilities: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the rows that `helios capabilities` prints, without those in memory."""
    listed = [(row["data_provider"], row["output_store"]) for row in capabilities]
    return ["/".join(row) for row in listed if "memory" not in row]


def of_this_run() -> list[Cell]:
    """Return the cells that this run tests."""
    return selected(list(rows()), VERSIONS, os.environ.get(VARIABLE, ""), today())


@click.command()
@click.argument("cell", required=False)
def main(cell: str | None) -> None:
    """Print the names of the rows in the JSON that is piped in, or check that CELL is one."""
    if cell:
        selected(list(rows()), VERSIONS, cell, today())
    else:
        click.echo(json.dumps(names(json.load(click.get_text_stream("stdin")))))


if __name__ == "__main__":
    main(prog_name="tests.matrix.cells")
