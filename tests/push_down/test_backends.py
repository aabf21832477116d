"""The same resources in every store that has an index: the same answers to the same searches."""

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

THOROUGHLY = 5
"""Of how many searches one is also counted by the store, and exported."""

OF_THE_STORE = ("_lastUpdated",)
"""Parameters whose values each store gives itself."""


async def searched(provider, version, query):
    """The ids of all matches, page by page."""
    found, after = [], None
    while True:
        key = corpus.type_key(query.filter.resource_type, fhir_version=version)
        page = await provider.search(key, query, count=40, after=after)
        found += [each.id for each in page.resources]
        if (after := page.next) is None:
            assert page.total in {None, len(found)}
            return found


async def exported(provider, version, condition):
    """The ids of all that an export with this filter would hold."""
    resource_type = condition.resource_type
    request = corpus.request(types=(resource_type,), fhir_version=version, level=Level.SYSTEM)
    view = corpus.view(await provider.transaction_time(), request)
    lines = []
    for shard in await provider.plan(view, shard_bytes=1 << 16):
        lines += await read(_narrowed(provider, view, shard, condition.prefilter()))
    return sorted(msgspec.json.decode(line)["id"] for line in lines if condition.matches(line))


def _narrowed(provider, view, shard, prefilter):
    if prefilter is None:
        return provider.read(view, shard, batch_bytes=1 << 16)
    return provider.read_candidates(view, shard, prefilter, batch_bytes=1 << 16)


async def differences(ours, theirs, version, chance):
    """Searches that two stores answer differently, and how many were asked."""
    wrong, asked = [], 0
    for resource_type in sorted(load_definitions(version).types):
        for condition in await _searches(ours, version, resource_type, chance):
            asked += 1
            thorough = asked % THOROUGHLY == 0
            order = chance.choice([SortOrder.ID, SortOrder.ID_DESCENDING])
            query = SearchQuery(filter=condition, order=order, total=thorough)
            found, others = [await searched(each, version, query) for each in (ours, theirs)]
            if found != others:
                wrong.append(condition)
            if thorough and sorted(found) != await exported(theirs, version, condition):
                wrong.append(condition)
    return wrong, asked


async def _searches(provider, version, resource_type, chance):
    request = corpus.request(types=(resource_type,), fhir_version=version, level=Level.SYSTEM)
    view = corpus.view(await provider.transaction_time(), request)
    lines = []
    for shard in await provider.plan(view, shard_bytes=1 << 40):
        lines += await read(provider.read(view, shard, batch_bytes=1 << 24))
    return searches(version, resource_type, lines, chance, leaving_out=OF_THE_STORE)


@pytest.mark.parametrize("version", [FHIRVersion.R4, FHIRVersion.R5])
async def test_stores_agree_on_the_examples(sqlite_provider, postgres_provider, version):
    """P5: of the specification, for each parameter of each type."""
    for provider in (sqlite_provider, postgres_provider):
        await loaded(provider, [examples(version)], version)

    chance = random.Random(4)
    wrong, asked = await differences(sqlite_provider, postgres_provider, version, chance)

    assert wrong == []
    assert asked > 500


async def test_stores_agree_on_real_bundles(sqlite_provider, postgres_provider):
    """P5: of Synthea."""
    for provider in (sqlite_provider, postgres_provider):
        await loaded(provider, islice(bundles(), BUNDLES), FHIRVersion.R4)

    chance = random.Random(5)
    wrong, asked = await differences(sqlite_provider, postgres_provider, FHIRVersion.R4, chance)

    assert wrong == []
    assert asked > 100
