"""A search index in Elasticsearch, shared by any number of processes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from helios_core import API_LEVEL, Backend, Reach, SearchIndex, hookimpl
from helios_elasticsearch.connections import make_client, require_elasticsearch
from helios_elasticsearch.index import ElasticsearchIndex
from helios_elasticsearch.settings import ElasticsearchSettings

__all__ = ["ElasticsearchIndex", "ElasticsearchSettings", "open_search_index"]


@asynccontextmanager
async def open_search_index(settings: ElasticsearchSettings) -> AsyncIterator[ElasticsearchIndex]:
    """
    Open an index, which need not be reachable yet.

    Raises:
        ConfigurationError: The server is not Elasticsearch, or refuses the credentials.
    """
    client = make_client(settings)
    try:
        await require_elasticsearch(client, settings)
        yield ElasticsearchIndex(client, settings)
    finally:
        await client.close()


@hookimpl
def helios_search_index() -> Backend[SearchIndex]:
    """Offer an index in Elasticsearch."""
    return Backend(
        api_level=API_LEVEL,
        reach=Reach.MACHINES,
        implementation=ElasticsearchIndex,
        settings=ElasticsearchSettings,
        open=open_search_index,
    )
