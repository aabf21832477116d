import sqlite3
from pathlib import Path

import pytest

import helios_sqlite
from helios_core import read_statements
from helios_sqlite.databases import Database

FILES = sorted((Path(helios_sqlite.__file__).parent / "sql").glob("*.sql"))
STATEMENTS = [
    (path.stem, name, statement)
    for path in FILES
    for name, statement in read_statements("helios_sqlite", path.stem).items()
]
MOST_PARAMETERS = 16


class Anything(dict):
    """A value for every named parameter."""

    def __missing__(self, name):
        return 0


def explained(connection, statement):
    """Compile a statement, with as many parameters as it has."""
    for parameters in (Anything(), *((0,) * count for count in range(MOST_PARAMETERS))):
        try:
            return connection.execute(f"EXPLAIN {statement}", parameters).fetchall()
        except sqlite3.ProgrammingError as error:
            if "bindings" not in str(error) and "Binding" not in str(error):
                raise
    return None


@pytest.mark.parametrize(
    ("subject", "name", "statement"), STATEMENTS, ids=[f"{s}-{n}" for s, n, _ in STATEMENTS]
)
async def test_every_statement_compiles(settings, subject, name, statement):
    async with Database(settings).opened() as database, database.reader() as reader:
        assert explained(reader.connection, statement)
