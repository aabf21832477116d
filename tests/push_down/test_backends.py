"""Stores with an index that have the same resources return the same results of a search."""

import random
from itertools import islice

import msgspec
import pytest

from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.model.exports import Level
from helios_core.storage.data_provider import SearchQuery, SortOrder
from helios_core.testing import corpus
from tests.push_down.contents import BUNDLES, bundles, examples, loaded, read
from tests.push_down.searches import searches

EXPORT_EVERY = 5
"""Of this many searches, one is also counted by the store, and exported."""

SET_BY_STORE = ("_lastUpdated",)
"""Parameters whose values differ between stores."""


async def search_ids(provider, version, query):
    """The ids of all matches, page by page."""
    ids, after = [], None
    while True:
        key = corpus.type_key(query.filter.resource_type, fhir_version=version)
        page = await provider.search(key, query, count=40, after=after)
        ids += [stored.id for stored in page.resources]
        if (after := page.next) is None:
            assert page.total in {None, len(ids)}
            return ids


async def export_ids(provider, version, filter_):
    """The ids of all resources in an export with this filter, sorted."""
    resource_type = filter_.resource_type
    request = corpus.request(types=(resource_type,), fhir_version=version, level=Level.SYSTEM)
    view = corpus.view(await provider.transaction_time(), request)
    lines = []
    for shard in await provider.plan(view, shard_bytes=1 << 16):
        lines += await read(_batches(provider, view, shard, filter_.prefilter()))
    return sorted(msgspec.json.decode(line)["id"] for line in lines if filter_.matches(line))


def _batches(provider, view, shard, prefilter):
    if prefilter is None:
        return provider.read(view, shard, batch_bytes=1 << 16)
    return provider.read_candidates(view, shard, prefilter, batch_bytes=1 << 16)


async def differences(left, right, version, chance):
    """Searches of which two stores have different results, and the number of all searches."""
    wrong, count = [], 0
    for resource_type in sorted(load_definitions(version).types):
        for filter_ in await _searches(left, version, resource_type, chance):
            count += 1
            thorough = count % EXPORT_EVERY == 0
            order = chance.choice([SortOrder.ID, SortOrder.ID_DESCENDING])
            query = SearchQuery(filter=filter_, order=order, total=thorough)
            ids = await search_ids(left, version, query)
            if ids != await search_ids(right, version, query):
                wrong.append(filter_)
            if thorough and sorted(ids) != await export_ids(right, version, filter_):
                wrong.append(filter_)
    return wrong, count


async def _searches(provider, version, resource_type, chance):
    request = corpus.request(types=(resource_type,), fhir_version=version, level=Level.SYSTEM)
    view = corpus.view(await provider.transaction_time(), request)
    lines = []
    for shard in await provider.plan(view, shard_bytes=1 << 40):
        lines += await read(provider.read(view, shard, batch_bytes=1 << 24))
    return searches(version, resource_type, lines, chance, without=SET_BY_STORE)


@pytest.mark.parametrize(
    "version", [FHIRVersion.R4, pytest.param(FHIRVersion.R5, marks=pytest.mark.in_turn)]
)
async def test_stores_agree_on_the_examples(sqlite_provider, postgres_provider, version):
    """P5: the examples of the specification, each parameter of each type."""
    for provider in (sqlite_provider, postgres_provider):
        await loaded(provider, [examples(version)], version)

    chance = random.Random(4)
    wrong, count = await differences(sqlite_provider, postgres_provider, version, chance)

    assert wrong == []
    assert count > 500


async def test_stores_agree_on_real_bundles(sqlite_provider, postgres_provider):
    """P5: Bundles of Synthea."""
    for provider in (sqlite_provider, postgres_provider):
        await loaded(provider, islice(bundles(), BUNDLES), FHIRVersion.R4)

    chance = random.Random(5)
    wrong, count = await differences(sqlite_provider, postgres_provider, FHIRVersion.R4, chance)

    assert wrong == []
    assert count > 100
