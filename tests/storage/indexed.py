"""Data providers with a search index, whose indexer does what a test wants."""

import asyncio
import random
import time
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from helios_core.errors import BackendError
from helios_core.memory import MemorySearchIndex
from helios_core.storage.index_lookups import IndexLookups
from helios_core.storage.indexed_provider import indexed_provider
from helios_core.storage.indexer import Indexer

FIRM = timedelta(seconds=30)


class Following:
    """A primary and an index, and an indexer that follows when it is told to."""

    def __init__(self, primary, index=None, *, falls_back=True, recent_seconds=0, clock=time.time):
        self.primary = primary
        self.index = index or MemorySearchIndex()
        interval = timedelta(milliseconds=1)
        self.indexer = Indexer(primary, self.index, interval=interval, clock=clock)
        self.lookups = IndexLookups(
            self.index,
            rest_seconds=0,
            recent_seconds=recent_seconds,
            time_limit=FIRM,
            on_failure=self.indexer.miss,
        )
        self.provider = indexed_provider(primary, self.lookups, falls_back=falls_back)

    async def follow(self):
        await self.indexer.follow(at_once=True)


def following_each_write(following, chance):
    """The provider, with an indexer that catches up behind as many writes as the chance says."""
    provider, write = following.provider, following.provider.write
    chances = random.Random(7)

    async def write_and_follow(tenant, fhir_version, changes):
        applied = await write(tenant, fhir_version, changes)
        if chances.random() < chance:
            with suppress(BackendError):
                await following.follow()
        return applied

    provider.write = write_and_follow
    return provider


@asynccontextmanager
async def followed(following):
    """Run the indexer beside whatever the block does."""
    stop = asyncio.Event()
    running = asyncio.ensure_future(following.indexer.run(stop))
    try:
        yield following.provider
    finally:
        stop.set()
        await running
