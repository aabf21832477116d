"""Data providers that are searched with Elasticsearch keep the whole contract."""

from contextlib import asynccontextmanager

import msgspec
import pytest

from helios_elasticsearch import ElasticsearchSettings, open_search_index
from tests.elasticsearches import own_indices
from tests.plugins.postgres import test_data_provider_contract as postgres
from tests.plugins.sqlite import test_contracts as sqlite
from tests.storage.indexed import Following, following_each_write

pytestmark = pytest.mark.in_turn


@pytest.fixture(scope="module")
def shared_indices(elasticsearch_server):
    """Settings of indices for all tests: to make them takes longer than most tests."""
    with own_indices(elasticsearch_server) as prefix:
        yield ElasticsearchSettings(nodes=(elasticsearch_server,), prefix=prefix)


class OfOneFolder:
    """A search index whose tenants are those of one folder."""

    def __init__(self, index, folder):
        self._index = index
        self._suffix = f"@{folder}"

    def __getattr__(self, name):
        method = getattr(self._index, name)

        async def call(place, *arguments, **options):
            place = msgspec.structs.replace(place, tenant=place.tenant + self._suffix)
            return await method(place, *arguments, **options)

        return call

    async def datasets(self):
        return [
            msgspec.structs.replace(dataset, tenant=dataset.tenant.removesuffix(self._suffix))
            for dataset in await self._index.datasets()
            if dataset.tenant.endswith(self._suffix)
        ]


class Indexed:
    """An indexer follows some writes and not others; behind its back is the primary."""

    @pytest.fixture(autouse=True)
    def places(self, shared_indices):
        self._settings = shared_indices

    @asynccontextmanager
    async def opened(self, folder):
        async with super().opened(folder) as primary, open_search_index(self._settings) as index:
            following = Following(primary, OfOneFolder(index, folder))
            yield following_each_write(following, 0.4)

    async def damage(self, provider, resource_type, resource_id):
        await super().damage(provider._provider, resource_type, resource_id)

    async def lose(self, provider, resource_type, resource_ids):
        await super().lose(provider._provider, resource_type, resource_ids)

    async def raw_current(self, provider, tenant, fhir_version):
        return await super().raw_current(provider._provider, tenant, fhir_version)

    async def set_clock_back(self, provider, by):
        await super().set_clock_back(provider._provider, by)


class TestSQLite(Indexed, sqlite.TestSQLiteDataProvider):
    pass


class TestPostgres(Indexed, postgres.TestPostgresDataProvider):
    pass
