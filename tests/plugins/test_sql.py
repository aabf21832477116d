"""The SQL of the plugins: where it is, and what it may say."""

import re
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[2] / "plugins"
PYTHON = sorted(PLUGINS.glob("*/helios_*/*.py"))
SQL = sorted(PLUGINS.glob("*/helios_*/sql/*.sql"))
BITS = re.compile(r"(<<|>>)\s*(12|28|40)\b")
WITH_SQL = {"connections", "databases", "schema", "listening", "damaged_jobs"}
"""Sessions and schemas have their few statements in place, and so has what narrows others."""
SECTION = re.compile(r"^-- (name|fragment): (\w+)\n(.*)", re.MULTILINE)


def name_of(path):
    return str(path.relative_to(PLUGINS))


@pytest.mark.parametrize("path", PYTHON + SQL, ids=name_of)
def test_the_bits_of_seqs_come_from_the_core_alone(path):
    assert not BITS.search(path.read_text())


@pytest.mark.parametrize("path", SQL, ids=name_of)
def test_every_statement_and_fragment_is_described(path):
    sections = SECTION.findall(path.read_text())

    assert sections
    assert [name for _, name, following in sections if not following.startswith("-- ")] == []


@pytest.mark.parametrize("path", SQL, ids=name_of)
def test_every_statement_and_fragment_is_used_and_none_is_missing(path):
    sections = SECTION.findall(path.read_text())
    fragments = {name for kind, name, _ in sections if kind == "fragment"}
    siblings = path.parent.glob("*.sql") if path.stem == "fragments" else [path]

    filled_in = {name for each in siblings for name in re.findall(r"\{(\w+)\}", each.read_text())}

    assert fragments <= filled_in
    if path.stem != "fragments":
        module = (path.parents[1] / f"{path.stem}.py").read_text()
        assert f'"{path.stem}")' in module
        named = {name for kind, name, _ in sections if kind == "name"}
        assert named == set(re.findall(r'_SQL\["(\w+)"\]', module))


@pytest.mark.parametrize(
    "path", [path for path in PYTHON if path.stem not in WITH_SQL], ids=name_of
)
def test_no_other_sql_is_put_together_in_python(path):
    assert not re.search(r"[\"'\n](SELECT|INSERT|UPDATE|DELETE|WITH)\s+[^\W\d]", path.read_text())
