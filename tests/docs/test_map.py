"""The map shows the packages and the rows as they are, and names files that exist."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAP = (ROOT / "docs/explanation/map.md").read_text(encoding="utf-8")
LAYERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][
    0
]
ROWS = re.findall(r"^\| (\d) \| (.+?) \| .+ \|$", MAP, re.MULTILINE)
PATHS = sorted(set(re.findall(r"`((?:helios_core|tests|docs|plugins)/[^`]+)`", MAP)))


def test_the_rows_are_those_of_the_import_rules():
    rows = [set() for _ in LAYERS["layers"]]
    for number, names in ROWS:
        rows[int(number) - 1] |= set(re.findall(r"`(\w+)`", names))

    assert rows == [set(re.findall(r"\w+", layer)) for layer in LAYERS["layers"]]
    assert len(rows) == 8
    assert sum(map(len, rows)) <= 20


@pytest.mark.parametrize("path", PATHS)
def test_what_the_map_names_exists(path):
    pattern = path.replace("/NAME", "/*").replace("_NAME", "_*")

    assert list(ROOT.glob(pattern))
