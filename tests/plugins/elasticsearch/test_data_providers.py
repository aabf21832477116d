"""Data providers that are searched with Elasticsearch keep the clauses about what is found."""

from contextlib import asynccontextmanager

import msgspec
import pytest

from helios_core.testing import DataProviderSuite
from helios_core.testing.data_provider.prefilters import PrefilterClauses
from helios_core.testing.data_provider.searches import SearchClauses
from helios_elasticsearch import open_search_index
from tests.plugins.postgres import test_data_provider_contract as postgres
from tests.plugins.sqlite import test_contracts as sqlite
from tests.storage.indexed import Following, following_each_write


class Indexed(SearchClauses, PrefilterClauses):
    """The clauses that an index has a part in; it follows some writes and not others."""

    powers = DataProviderSuite.known_powers

    @pytest.fixture(autouse=True)
    def places(self, settings):
        self._settings, self._folders = settings, {}

    @asynccontextmanager
    async def opened(self, folder):
        """A folder has indices of its own."""
        number = self._folders.setdefault(folder, len(self._folders))
        settings = msgspec.structs.replace(
            self._settings, prefix=f"{self._settings.prefix}-{number}"
        )
        async with self.suite.opened(folder) as primary, open_search_index(settings) as index:
            self._primary = primary
            yield following_each_write(Following(primary, index), 0.4)

    async def damage(self, provider, resource_type, resource_id):
        await self.suite.damage(self._primary, resource_type, resource_id)

    async def lose(self, provider, resource_type, resource_ids):
        await self.suite.lose(self._primary, resource_type, resource_ids)

    async def raw_current(self, provider, tenant, fhir_version):
        return await self.suite.raw_current(self._primary, tenant, fhir_version)

    async def set_clock_back(self, provider, by):
        await self.suite.set_clock_back(self._primary, by)


class TestSQLite(Indexed):
    @pytest.fixture(autouse=True)
    def suite_of_the_primary(self):
        self.suite = sqlite.TestSQLiteDataProvider()


@pytest.mark.in_turn
class TestPostgres(Indexed):
    @pytest.fixture(autouse=True)
    def suite_of_the_primary(self, migrated_postgres_url):
        self.suite = postgres.TestPostgresDataProvider()
        self.suite._url_of = lambda _: migrated_postgres_url
