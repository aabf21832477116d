"""The numbered files of a schema, and databases that have had some of them."""

import sys

import pytest

from helios_core import (
    ConfigurationError,
    Migrated,
    Migration,
    Migrations,
    SchemaOutdated,
)

STEPS = Migrations(
    distribution="helios-fhir-example",
    steps=tuple(Migration(number=n, name=f"000{n}_x", script=f"-- {n}") for n in (1, 2, 3)),
)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Make a package with files in its folder `migrations`."""

    def package(name, *files):
        folder = tmp_path / name / "migrations"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").touch()
        for file in files:
            (folder / file).write_text(f"-- {file}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return package


def test_files_are_steps_in_the_order_of_their_numbers(package):
    name = package("helios_ordered", "0010_j.sql", *(f"000{n}_a.sql" for n in range(9, 0, -1)))

    steps = Migrations.of(name, distribution="helios-fhir-ordered")

    assert [step.number for step in steps.steps] == list(range(1, 11))
    assert (steps.newest, steps.steps[9].name) == (10, "0010_j")
    assert steps.steps[9].script == "-- 0010_j.sql\n"


@pytest.mark.parametrize("files", [("0001_a.sql", "0003_b.sql"), ("0001_a.sql", "0001_b.sql")])
def test_gaps_and_doubles_are_refused(package, files):
    name = package(f"helios_gap_{files[1][:4]}", *files)

    with pytest.raises(ValueError, match="numbered from 1"):
        Migrations.of(name, distribution="helios-fhir-gap")


def test_a_database_lacks_the_steps_after_its_version():
    assert [step.number for step in STEPS.after(0)] == [1, 2, 3]
    assert [step.number for step in STEPS.after(2)] == [3]
    assert list(STEPS.after(3)) == list(STEPS.after(9)) == []


def test_a_database_of_another_version_is_refused():
    STEPS.check(3, "the database")

    with pytest.raises(SchemaOutdated, match=r"has version 2, .* needs version 3; .*migrate"):
        STEPS.check(2, "the database")
    with pytest.raises(ConfigurationError, match=r"up to 3; .* helios-fhir-example"):
        STEPS.check(4, "the database")


@pytest.mark.parametrize(
    ("before", "indexed", "expected"),
    [
        (0, False, "x.db went from version 0 to 3"),
        (1, True, "x.db went from version 1 to 3; its search index was rebuilt"),
        (3, False, "x.db has version 3 already"),
        (3, True, "x.db has version 3 already; its search index was rebuilt"),
    ],
)
def test_what_was_done_is_reported(before, indexed, expected):
    assert Migrated(before=before, after=3, indexed=indexed).report("x.db") == expected
