import sys

import pytest

from helios_core import COLLECTION_BITS, EXTENT_BITS, read_statements


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes the SQL files of a package that can be imported."""
    (tmp_path / "somebody" / "sql").mkdir(parents=True)
    (tmp_path / "somebody" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebody", raising=False)

    def package(**files):
        for name, text in files.items():
            (tmp_path / "somebody" / "sql" / f"{name}.sql").write_text(text)
        return "somebody"

    yield package
    sys.modules.pop("somebody", None)


def test_statements_are_found_by_their_names_without_descriptions(package):
    name = package(
        leases="-- name: claim\n-- Claim it.\nUPDATE shards\nSET worker = 1;\n\n"
        "-- name: free\n-- Free it.\nDELETE FROM shards;\n"
    )

    statements = read_statements(name, "leases")

    assert statements == {
        "claim": "UPDATE shards\nSET worker = 1",
        "free": "DELETE FROM shards",
    }


def test_fragments_and_constants_are_filled_in(package):
    name = package(
        fragments="-- fragment: late\n-- Late.\nat > {bound}\n-- fragment: bound\n-- B.\n7\n",
        reading="-- name: read\n-- Read.\nSELECT a >> {EXTENT_BITS}, b >> {COLLECTION_BITS}\n"
        "WHERE {late} AND {own};\n-- fragment: own\n-- Own.\nc\n",
    )

    statements = read_statements(name, "reading")

    assert statements == {
        "read": f"SELECT a >> {EXTENT_BITS}, b >> {COLLECTION_BITS}\nWHERE at > 7 AND c"
    }


def test_a_name_that_is_used_twice_is_refused(package):
    name = package(
        fragments="-- fragment: read\n-- R.\nx\n", reading="-- name: read\n-- R.\nSELECT 1;\n"
    )

    with pytest.raises(ValueError, match="used twice"):
        read_statements(name, "reading")


def test_a_placeholder_for_nothing_is_refused(package):
    name = package(reading="-- name: read\n-- R.\nSELECT {nothing};\n")

    with pytest.raises(ValueError, match="nothing"):
        read_statements(name, "reading")
