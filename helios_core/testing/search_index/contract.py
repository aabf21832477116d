"""What a subclass of the search index suite implements, and helpers of its tests."""

import random
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

import pytest

from helios_core import (
    Dataset,
    IndexedVersion,
    IndexEntry,
    IndexQuery,
    IndexState,
    SearchIndex,
)
from helios_core.fhir import Extremes, FHIRVersion, IndexTerms, Prefilter
from helios_core.testing import corpus
from helios_core.testing.suites import ContractSuite

DATASET = Dataset(corpus.TENANT, corpus.VERSION)
"""The dataset of most tests."""
OTHER_DATASETS = {
    "another tenant": Dataset(corpus.OTHER_TENANT, corpus.VERSION),
    "a tenant whose name begins alike": Dataset(f"{corpus.TENANT}-2", corpus.VERSION),
    "a tenant in other letters": Dataset(corpus.TENANT.upper(), corpus.VERSION),
    "another FHIR version": Dataset(corpus.TENANT, FHIRVersion.R5),
}
EPOCH = "1-first"
NEXT_EPOCH = "1-second"
OBSERVATIONS = DATASET.type("Observation")
NOW = 1_790_000_000_123_456
"""About when the resources of the tests were written, in microseconds since 1970."""


def entry(  # noqa: PLR0913 - the fields of an entry, most of them by keyword
    resource_id: str,
    version_id: int = 1,
    *,
    terms: Iterable[int] = (),
    spans: Sequence[tuple[int, int, int]] = (),
    deleted: bool = False,
    updated: int | None = None,
    values: Sequence[Extremes | None] = (),
    resource_type: str = "Observation",
) -> IndexEntry:
    """Return an entry, whose default instant grows with the version."""
    return IndexEntry(
        resource_type=resource_type,
        id=resource_id,
        version_id=version_id,
        updated=NOW + version_id if updated is None else updated,
        terms=None if deleted else IndexTerms(terms=frozenset(terms), spans=tuple(spans)),
        values=tuple(values),
    )


async def listed(  # noqa: PLR0913 - most of them by keyword
    index: SearchIndex,
    query: IndexQuery,
    *,
    dataset: Dataset = DATASET,
    epoch: str = EPOCH,
    count: int = 10_000,
    resource_type: str = "Observation",
) -> list[IndexedVersion]:
    """Return all entries that a query finds, read page by page."""
    found, after = list[IndexedVersion](), None
    key = dataset.type(resource_type)
    while True:
        page = await index.find(key, epoch, query, count=count, after=after)
        assert len(page) <= count
        found += page
        if len(page) < count:
            return found
        after = page[-1]


async def ids(index: SearchIndex, prefilter: Prefilter | None = None) -> list[str]:
    """Return the ids of all live entries that satisfy a prefilter."""
    return [version.id for version in await listed(index, IndexQuery(prefilter=prefilter))]


class SearchIndexContract(ContractSuite):
    """What a subclass of the suite implements, and the fixtures."""

    outlives_processes: ClassVar[bool] = True
    """Whether entries are kept outside of the process: `another` and `down` are implemented."""

    def another(self, index: SearchIndex) -> AbstractAsyncContextManager[SearchIndex]:
        """Open the same index once more, as another process would."""
        raise NotImplementedError

    def down(self, index: SearchIndex) -> AbstractAsyncContextManager[None]:
        """Make the storage of the entries unreachable until the block ends."""
        raise NotImplementedError

    @pytest.fixture
    def subject(self, index: SearchIndex) -> SearchIndex:
        """Return the implementation that the tests shared by all suites test."""
        return index

    @pytest.fixture
    async def begun(self, index: SearchIndex) -> SearchIndex:
        """Return the index with a new epoch without entries."""
        state = await index.reset(DATASET, EPOCH, expected=None)
        assert state == IndexState(epoch=EPOCH)
        return index

    def needs_persistence(self) -> None:
        """Skip a test about several processes or an index that is down."""
        if not self.outlives_processes:
            pytest.skip(f"{type(self).__name__} does not claim to outlive a process")


def seeded(seed: int) -> random.Random:
    """Return a random generator that makes the same choices in every run."""
    return random.Random(seed)  # noqa: S311 - tests are repeatable
