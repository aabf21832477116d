"""
The reference backends, offered as the plugin `memory`.

The contract suites were written against them, and tests use them where they need a backend but no
files. They forget everything when the process ends.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from helios_core.memory.data_provider import MemoryDataProvider
from helios_core.memory.job_store import MemoryJobStore
from helios_core.memory.output_store import MemoryOutputStore
from helios_core.memory.search_index import MemorySearchIndex
from helios_core.storage.backends import Backend, Reach
from helios_core.storage.data_provider import DataProvider
from helios_core.storage.hooks import API_LEVEL, hookimpl
from helios_core.storage.job_store import JobStore
from helios_core.storage.output_store import OutputStore
from helios_core.storage.search_index import SearchIndex

__all__ = [
    "MemoryDataProvider",
    "MemoryJobStore",
    "MemoryOutputStore",
    "MemorySearchIndex",
    "MemorySettings",
]


class MemorySettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the reference backends: there are none."""


@asynccontextmanager
async def _provider(_settings: MemorySettings) -> AsyncIterator[DataProvider]:
    yield MemoryDataProvider()


@asynccontextmanager
async def _job_store(_settings: MemorySettings) -> AsyncIterator[JobStore]:
    yield MemoryJobStore()


@asynccontextmanager
async def _output_store(_settings: MemorySettings) -> AsyncIterator[OutputStore]:
    yield MemoryOutputStore()


@asynccontextmanager
async def _search_index(_settings: MemorySettings) -> AsyncIterator[SearchIndex]:
    yield MemorySearchIndex()


@hookimpl
def helios_data_provider() -> Backend[DataProvider]:
    """Offer the reference data provider."""
    return Backend(
        api_level=API_LEVEL,
        reach=Reach.PROCESS,
        implementation=MemoryDataProvider,
        settings=MemorySettings,
        open=_provider,
    )


@hookimpl
def helios_job_store() -> Backend[JobStore]:
    """Offer the reference job store."""
    return Backend(
        api_level=API_LEVEL,
        reach=Reach.PROCESS,
        implementation=MemoryJobStore,
        settings=MemorySettings,
        open=_job_store,
    )


@hookimpl
def helios_output_store() -> Backend[OutputStore]:
    """Offer the reference output store."""
    return Backend(
        api_level=API_LEVEL,
        reach=Reach.PROCESS,
        implementation=MemoryOutputStore,
        settings=MemorySettings,
        open=_output_store,
    )


@hookimpl
def helios_search_index() -> Backend[SearchIndex]:
    """Offer the reference search index."""
    return Backend(
        api_level=API_LEVEL,
        reach=Reach.PROCESS,
        implementation=MemorySearchIndex,
        settings=MemorySettings,
        open=_search_index,
    )
