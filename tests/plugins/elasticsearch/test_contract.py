"""The shared contract suite, on a real server."""

from contextlib import asynccontextmanager

import msgspec
import pytest

from helios_core.testing import SearchIndexSuite
from helios_elasticsearch import open_search_index
from tests.proxies import Proxy


class TestElasticsearchIndex(SearchIndexSuite):
    @pytest.fixture
    async def index(self, settings):
        self._settings = settings
        with Proxy(("127.0.0.1", int(settings.nodes[0].rpartition(":")[2]))) as proxy:
            self._proxy = proxy
            through = msgspec.structs.replace(settings, nodes=(proxy.url,))
            async with open_search_index(through) as index:
                yield index

    def another(self, index):
        return open_search_index(self._settings)

    @asynccontextmanager
    async def down(self, index):
        self._proxy.close()
        yield
        self._proxy.open()
