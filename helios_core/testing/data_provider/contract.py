"""What a data provider suite is given, and the steps its tests are made of."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from helios_core import (
    AppliedChange,
    DataProvider,
    Delete,
    ExportView,
    Put,
    StoredVersion,
    SupportsHistory,
    SupportsPrefilter,
    SupportsSearch,
    SupportsTombstones,
    SupportsWrites,
)
from helios_core.fhir import FHIRVersion, Resource
from helios_core.testing import corpus
from helios_core.testing.suites import ContractSuite


class DataProviderContract(ContractSuite):
    """
    What a subclass gives so that the suite can test its data provider.

    `opened`, and the methods that go around the provider with its own driver, so that a provider
    that is wrong in both directions cannot agree with itself. A provider that cannot be written
    to gives `seed` as well.
    """

    known_powers = frozenset(
        {
            SupportsWrites,
            SupportsHistory,
            SupportsSearch,
            SupportsTombstones,
            SupportsPrefilter,
        },
    )
    persistent: ClassVar[bool] = True
    """Whether `opened` twice on one folder reaches one state, at once and after closing."""

    def opened(self, folder: Path) -> AbstractAsyncContextManager[DataProvider]:
        """Open the provider whose data is in, or named after, the folder; new when it is empty."""
        raise NotImplementedError

    async def damage(self, provider: DataProvider, resource_type: str, resource_id: str) -> None:
        """Spoil what is stored of the current version of a resource of `corpus.TENANT`."""
        raise NotImplementedError

    async def raw_current(
        self, provider: DataProvider, tenant: str, fhir_version: FHIRVersion
    ) -> Mapping[str, int]:
        """Give the current version of every live resource, by `Type/id`."""
        raise NotImplementedError

    async def set_clock_back(self, provider: DataProvider, by: timedelta) -> None:
        """Make the data's clock read earlier than it has done; only with SupportsWrites."""
        raise NotImplementedError

    async def seed(
        self,
        provider: DataProvider,
        *resources: Resource,
        tenant: str = corpus.TENANT,
        fhir_version: FHIRVersion = corpus.VERSION,
    ) -> None:
        """Store resources as version 1, later than whatever was stored before."""
        await write(provider, *resources, tenant=tenant, fhir_version=fhir_version)

    @pytest.fixture
    async def provider(self, tmp_path: Path) -> AsyncIterator[DataProvider]:
        """Give an opened provider without data."""
        async with self.opened(tmp_path) as provider:
            yield provider

    @pytest.fixture
    def subject(self, provider: DataProvider) -> DataProvider:
        """Give what the shared tests look at."""
        return provider

    def needs_persistence(self) -> None:
        """Skip a test about data that outlives an opened provider."""
        if not self.persistent:
            pytest.skip(f"{type(self).__name__} does not claim to be persistent")


Change = Resource | Put | Delete
"""A bare resource stands for a Put of it."""


async def write(
    provider: DataProvider,
    *changes: Change,
    tenant: str = corpus.TENANT,
    fhir_version: FHIRVersion = corpus.VERSION,
) -> list[AppliedChange]:
    """Apply changes in one call."""
    assert isinstance(provider, SupportsWrites)
    puts = [Put(resource=each) if isinstance(each, Resource) else each for each in changes]
    return await provider.write(tenant, fhir_version, puts)


async def stamp_of(provider: DataProvider, *changes: Change) -> datetime:
    """Apply changes and give the instant they carry."""
    applied = await write(provider, *changes)
    stamp = applied[-1].last_updated
    assert stamp is not None
    return stamp


async def get(provider: DataProvider, of: Resource, **options: datetime) -> StoredVersion | None:
    """Get a resource of `corpus.TENANT` by the name another one has."""
    return await provider.get(corpus.type_key(of.resource_type).resource(of.id), **options)


def put(resource: Resource, *, if_match: int) -> Put:
    """Give the update of a resource on condition."""
    return Put(resource=resource, if_match=if_match)


def delete(of: Resource, *, if_match: int | None = None) -> Delete:
    """Give the deletion of a resource."""
    return Delete(resource_type=of.resource_type, id=of.id, if_match=if_match)


def names(*resources: Resource) -> Sequence[str]:
    """Give `Type/id` of each, sorted."""
    return sorted(map(corpus.name, resources))


async def everything_now(provider: DataProvider) -> ExportView:
    """Give the view of everything in `corpus.TENANT`, now."""
    return corpus.view(await provider.transaction_time())
