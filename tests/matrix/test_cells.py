"""Which cells a run tests, and that nobody has another list of them."""

import json
import os
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from tests.matrix.cells import rows
from tests.matrix.turns import Cell, selected
from tests.processes import HELIOS

ROOT = Path(__file__).parents[2]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/matrix.yaml").read_text())
ORIGINAL = {
    f"{primary}{index}/{output}"
    for primary in ("sqlite", "postgres", "mongodb", "s3")
    for index in ("", "-elasticsearch")
    for output in ("local-fs", "s3")
}
"""The rows that the server has to have."""
THREE = ("R4", "R4B", "R5")
LISTED = ["a/x", "a/y", "b/x", "b/y"]


def run(step: str, folder: Path) -> str:
    """Run a step of the workflow with bash, and return what it outputs for other jobs."""
    output = folder / "output"
    environ = {"PATH": f"{HELIOS.parent}:{os.environ['PATH']}", "GITHUB_OUTPUT": str(output)}
    subprocess.run(["bash", "-euo", "pipefail", "-c", step], cwd=ROOT, env=environ, check=True)
    return output.read_text()


def test_the_rows_are_those_that_the_server_has_to_have():
    assert rows().keys() == ORIGINAL


def test_the_jobs_of_the_workflow_are_the_rows_of_the_command(tmp_path):
    listing, testing = WORKFLOW["jobs"]["rows"], WORKFLOW["jobs"]["row"]
    [step] = [step for step in listing["steps"] if step.get("id") == "rows"]

    name, _, value = run(step["run"], tmp_path).strip().partition("=")

    assert listing["outputs"] == {name: f"${{{{ steps.rows.outputs.{name} }}}}"}
    assert testing["needs"] == "rows"
    assert testing["strategy"]["matrix"] == {
        "row": f"${{{{ fromJSON(needs.rows.outputs.{name}) }}}}",
        "version": list(THREE),
    }
    assert json.loads(value) == list(rows())


def test_every_day_has_all_rows_for_the_first_version():
    for day in range(1, 367):
        chosen = selected(LISTED, THREE, "", f"{day:03}")

        assert [cell.row for cell in chosen if cell.version == "R4"] == LISTED


def test_all_cells_can_be_chosen():
    assert selected(LISTED, THREE, "", "all") == [
        Cell(row, each) for each in THREE for row in LISTED
    ]


def test_one_cell_can_be_chosen():
    assert selected(LISTED, THREE, "b/x@R5", "001") == [Cell("b/x", "R5")]


@pytest.mark.parametrize("choice", ["c/x@R4", "a/x", "a/x@R3", "@R4"])
def test_what_is_no_cell_is_refused_with_the_list_of_rows(choice):
    with pytest.raises(click.UsageError) as refused:
        selected(LISTED, THREE, choice, "001")

    assert repr(choice) in str(refused.value)
    assert all(row in str(refused.value) for row in LISTED)


def test_make_runs_one_cell_and_refuses_what_is_none():
    made = subprocess.run(
        ["make", "--silent", "matrix", "ROW=mysql/s3", "VERSION=R5"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert made.returncode != 0
    assert "'mysql/s3@R5'" in made.stdout + made.stderr
    assert "mongodb-elasticsearch/s3" in made.stdout + made.stderr
