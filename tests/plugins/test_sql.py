"""What the SQL of the plugins may say."""

import re
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[2] / "plugins"
SOURCES = [
    path
    for path in sorted(PLUGINS.glob("*/helios_*/**/*"))
    if path.suffix in {".py", ".sql"} and path.parent.name != "migrations"
]
BITS = re.compile(r"(<<|>>)\s*(12|28|40)\b")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PLUGINS)))
def test_the_bits_of_seqs_come_from_the_core_alone(path):
    assert not BITS.search(path.read_text())
