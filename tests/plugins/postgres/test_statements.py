from pathlib import Path

from asyncpg import PostgresError

import helios_postgres
from helios_core import read_statements

FILES = sorted((Path(helios_postgres.__file__).parent / "sql").glob("*.sql"))


async def test_every_statement_is_prepared_by_the_server(raw):
    refused = {}
    for path in FILES:
        for name, statement in read_statements("helios_postgres", path.stem).items():
            try:
                await raw.prepare(statement)
            except PostgresError as error:
                refused[path.stem, name] = error

    assert len(FILES) > 1
    assert refused == {}
