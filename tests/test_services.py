"""The services that tests are given do what the tests need of them."""

import asyncio

import asyncpg


def ask(url, statement):
    async def asking():
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(asking())


def test_a_database_survives_the_restart_of_its_server(postgres_server, postgres_url):
    ask(postgres_url, "CREATE TABLE kept AS SELECT 1 AS one")
    started = "SELECT pg_postmaster_start_time()"
    before = ask(postgres_url, started)

    postgres_server.restart()

    assert ask(postgres_url, "SELECT one FROM kept") == 1
    assert ask(postgres_url, started) > before


def test_a_database_is_gone_after_its_test(postgres_server):
    with postgres_server.database() as url:
        name = ask(url, "SELECT current_database()")

    with postgres_server.database() as url:
        names = ask(url, "SELECT string_agg(datname, ' ') FROM pg_database").split()

    assert name not in names


def test_a_bucket_keeps_what_is_put_into_it(minio_bucket):
    client = minio_bucket.client()

    client.put_object(Bucket=minio_bucket.name, Key="a/b", Body=b"bytes")

    assert client.get_object(Bucket=minio_bucket.name, Key="a/b")["Body"].read() == b"bytes"
    client.close()
