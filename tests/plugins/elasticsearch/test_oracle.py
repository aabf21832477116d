"""Searches and exports are exact while a real Elasticsearch lags, freezes, dies and comes back."""

import asyncio
import random
from contextlib import suppress
from datetime import timedelta

import httpx
import pytest

from helios_core import BackendError
from helios_core.storage.index_lookups import IndexLookups
from helios_core.storage.indexed_provider import indexed_provider
from helios_elasticsearch import ElasticsearchSettings, open_search_index
from tests.elasticsearches import own_elasticsearch
from tests.storage import test_index_oracle as oracle
from tests.storage.indexed import Following

ROUNDS = 6
SHORT = timedelta(seconds=2)
"""How long searches and the indexer wait for a server that is frozen."""


class World(oracle.World):
    """A world in which writers leave the others some time."""

    async def write(self):
        while True:
            await self.write_once()
            await asyncio.sleep(0.05)


def world_of(primary, index, seed, **limits):
    world = World(primary, random.Random(seed))
    world.index = index
    world.following = Following(primary, index, recent_seconds=3600)
    if limits:
        lookups = IndexLookups(index, rest_seconds=0, **limits)
        world.following.provider = indexed_provider(primary, lookups)
    return world


@pytest.mark.parametrize(
    "trouble",
    [oracle.paused, oracle.slow, oracle.killed, oracle.several],
    ids=lambda t: t.__name__,
)
async def test_what_is_found_is_exact(sqlite_provider, index, trouble):
    world = world_of(sqlite_provider, index, 1)

    await oracle.compare(world, trouble, ROUNDS, indexed=1)


async def test_what_is_found_is_exact_while_the_server_freezes_and_dies(
    sqlite_provider, tmp_path_factory
):
    with own_elasticsearch(tmp_path_factory.mktemp("elasticsearch")) as server:
        settings = ElasticsearchSettings(nodes=(server.url,))
        ask(server, "PUT", "kept")
        async with open_search_index(settings) as index:
            world = world_of(sqlite_provider, index, 2, time_limit=SHORT)
            is_back = asyncio.Event()

            async def in_trouble(world):
                """Freeze, kill and start the server, and follow in between and from then on."""
                await follow_for_a_while(world)
                server.freeze()
                await followed(world)
                server.thaw()
                await follow_for_a_while(world)
                server.kill()
                await follow_for_a_while(world)
                await asyncio.to_thread(server.start)
                is_back.set()
                while True:
                    await follow_for_a_while(world)

            async def until_it_is_back():
                while not is_back.is_set():
                    await world.search()
                    await world.search_sorted()
                    await world.export()

            for _ in range(10):
                await world.write_once()
            await world.following.follow()
            async with oracle.beside(world.write(), in_trouble(world)):
                await until_it_is_back()
            while not await followed(world, at_most=None):
                await asyncio.sleep(0.1)
            await oracle.compare(world, oracle.paused, ROUNDS, indexed=1)
        # It was the same server all the time, and no new one in which everything was built anew.
        assert "kept" in ask(server, "GET", "_cat/indices?h=index").split()


def ask(server, method, path):
    return httpx.request(method, f"{server.url}/{path}", timeout=60).raise_for_status().text


async def follow_for_a_while(world):
    for _ in range(2):
        await followed(world)
        await asyncio.sleep(0.1)


async def followed(world, *, at_most=SHORT):
    """Follow, and return whether nothing failed."""
    with suppress(BackendError, TimeoutError):
        await asyncio.wait_for(world.following.follow(), at_most and at_most.total_seconds())
        return True
    return False
