"""The shared contract suite, with MongoDB looked at behind the plugin's back."""

from contextlib import asynccontextmanager
from datetime import timedelta
from unittest.mock import patch

import pymongo
import pytest

from helios_core import Secret
from helios_core.fhir import FOREVER
from helios_core.testing import DataProviderSuite, corpus
from helios_mongodb import MongoSettings, clock, migrate, open_data_provider


@asynccontextmanager
async def behind_the_back(provider):
    settings = provider._database.settings
    async with pymongo.AsyncMongoClient(settings.database_url.reveal()) as client:
        yield client[settings.database]


class TestMongoDataProvider(DataProviderSuite):
    powers = DataProviderSuite.known_powers

    @pytest.fixture(autouse=True)
    def databases_of_its_own(self, mongodb_server, mongodb_database):
        self._server, self._prefix, self._folders = mongodb_server, mongodb_database, {}
        yield
        for name in self._folders.values():
            mongodb_server.drop(name)

    @asynccontextmanager
    async def opened(self, folder):
        """A folder has a database of its own."""
        name = self._folders.setdefault(folder, f"{self._prefix}_{len(self._folders)}")
        settings = MongoSettings(database_url=Secret(self._server.url), database=name)
        await migrate(settings)
        with patch.object(clock, "WALL", clock.WALL):
            async with open_data_provider(settings) as provider:
                yield provider

    async def damage(self, provider, resource_type, resource_id):
        async with behind_the_back(provider) as database:
            collection = await database.collections.find_one(
                {"tenant": corpus.TENANT, "version": corpus.VERSION.value, "type": resource_type}
            )
            changed = await database.versions.update_one(
                {"c": collection["_id"], "i": resource_id, "u": FOREVER},
                {"$set": {"b": b'{"spoilt'}},
            )
            assert changed.modified_count == 1

    async def lose(self, provider, resource_type, resource_ids):
        async with behind_the_back(provider) as database:
            collection = await database.collections.find_one(
                {"tenant": corpus.TENANT, "version": corpus.VERSION.value, "type": resource_type}
            )
            lost = {"c": collection["_id"], "i": {"$in": list(resource_ids)}}
            assert (await database.versions.delete_many(lost)).deleted_count

    async def raw_current(self, provider, tenant, fhir_version):
        async with behind_the_back(provider) as database:
            types = {
                each["_id"]: each["type"]
                async for each in database.collections.find(
                    {"tenant": tenant, "version": fhir_version.value}
                )
            }
            newest = {
                f"{types[each['c']]}/{each['i']}": each
                async for each in database.versions.find({}).sort("v", 1)
                if each["c"] in types
            }
            return {name: each["v"] for name, each in newest.items() if not each["d"]}

    async def set_clock_back(self, provider, by):
        """The clock is the server's; what is read of it is less from now on."""
        clock.WALL = {"$subtract": [clock.WALL, by // timedelta(microseconds=1)]}
