"""The shared contract suite, with PostgreSQL looked at behind the plugin's back."""

import asyncio
from contextlib import ExitStack, asynccontextmanager
from functools import cache

import pytest

from helios_core import COLLECTION_BITS, Secret
from helios_core.testing import DataProviderSuite, corpus
from helios_postgres import PostgresSettings, open_data_provider
from tests.plugins.postgres.connecting import connected


def behind_the_back(provider):
    return connected(provider._database.settings)


class TestPostgresDataProvider(DataProviderSuite):
    powers = DataProviderSuite.known_powers

    @pytest.fixture(autouse=True)
    def databases(self, postgres_server):
        """A folder has a database of its own."""
        with ExitStack() as stack:

            @cache
            def url_of(_folder):
                return stack.enter_context(postgres_server.database(migrated=True))

            self._url_of = url_of
            yield

    @asynccontextmanager
    async def opened(self, folder):
        url = await asyncio.to_thread(self._url_of, folder)
        settings = PostgresSettings(database_url=Secret(url))
        async with open_data_provider(settings) as provider:
            yield provider

    async def damage(self, provider, resource_type, resource_id):
        async with behind_the_back(provider) as connection:
            changed = await connection.execute(
                "UPDATE versions SET content = '{\"spoilt' WHERE seq = (SELECT r.seq"
                " FROM resources r JOIN collections USING (collection) WHERE tenant = $1"
                " AND fhir_version = $2 AND resource_type = $3 AND id = $4)",
                *(corpus.TENANT, corpus.VERSION.value, resource_type, resource_id),
            )
            assert changed == "UPDATE 1"

    async def lose(self, provider, resource_type, resource_ids):
        async with behind_the_back(provider) as connection:
            for each in resource_ids:
                lost = await connection.execute(
                    "DELETE FROM versions WHERE id = $4 AND seq >> $5 = ("
                    "SELECT collection FROM collections WHERE tenant = $1"
                    " AND fhir_version = $2 AND resource_type = $3)",
                    *(corpus.TENANT, corpus.VERSION.value, resource_type, each),
                    COLLECTION_BITS,
                )
                assert lost != "DELETE 0"

    async def raw_current(self, provider, tenant, fhir_version):
        async with behind_the_back(provider) as connection:
            rows = await connection.fetch(
                "SELECT c.resource_type || '/' || v.id, max(v.version_id)"
                " FROM versions v JOIN collections c ON c.collection = v.seq >> $3"
                " WHERE c.tenant = $1 AND c.fhir_version = $2"
                " GROUP BY c.resource_type, v.id"
                " HAVING (array_agg(v.deleted ORDER BY v.version_id DESC))[1] = false",
                tenant,
                fhir_version.value,
                COLLECTION_BITS,
            )
            return dict(rows)

    async def set_clock_back(self, provider, by):
        async with behind_the_back(provider) as connection:
            source = await connection.fetchval(
                "SELECT prosrc FROM pg_proc WHERE oid = 'wall_stamp'::regproc"
            )
            microseconds = round(by.total_seconds() * 1_000_000)
            await connection.execute(
                "CREATE OR REPLACE FUNCTION wall_stamp() RETURNS bigint LANGUAGE sql VOLATILE"
                f" AS $$ SELECT ({source}) - {microseconds} $$"
            )
