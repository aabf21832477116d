"""Each index against the evaluator, for every search parameter of every type there is data of."""

import random
from itertools import islice

import pytest

from helios_core.cli.demo.population import write_population
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.model.exports import Level
from helios_core.storage.data_provider import SearchQuery, SortOrder
from helios_core.storage.keys import TypeKey
from helios_core.testing import corpus
from tests.push_down.contents import BUNDLES, bundles, examples, loaded, read
from tests.push_down.searches import searches


async def differences(provider, version, chance):
    """Searches whose answer is not the evaluator's, and how many the index was asked for."""
    now = await provider.transaction_time()
    wrong, indexed = [], 0
    for resource_type in sorted(load_definitions(version).types):
        request = corpus.request(types=(resource_type,), fhir_version=version, level=Level.SYSTEM)
        view, key = corpus.view(now, request), TypeKey.of(request, resource_type)
        for shard in await provider.plan(view, shard_bytes=1 << 40):
            lines = await read(provider.read(view, shard, batch_bytes=1 << 24))
            for condition in searches(version, resource_type, lines, chance):
                expected = [line for line in lines if condition.matches(line)]
                query = SearchQuery(filter=condition, order=SortOrder.LAST_UPDATED)
                page = await provider.search(key, query, count=10_000)
                if sorted(each.content for each in page.resources) != sorted(expected):
                    wrong.append(condition)
                if (prefilter := condition.prefilter()) is None:
                    continue
                indexed += 1
                candidates = provider.read_candidates(view, shard, prefilter, batch_bytes=1 << 24)
                found = await read(candidates)
                if [line for line in found if condition.matches(line)] != expected:
                    wrong.append(condition)
    return wrong, indexed


@pytest.mark.parametrize("version", [FHIRVersion.R4, FHIRVersion.R5])
async def test_the_index_agrees_with_the_evaluator_on_the_examples(provider, version):
    """P5: of the specification, for each parameter of each type."""
    await loaded(provider, [examples(version)], version)

    wrong, indexed = await differences(provider, version, random.Random(1))

    assert wrong == []
    assert indexed > 500


async def test_the_index_agrees_with_the_evaluator_on_real_bundles(provider):
    """P5: of Synthea."""
    await loaded(provider, islice(bundles(), BUNDLES), FHIRVersion.R4)

    wrong, indexed = await differences(provider, FHIRVersion.R4, random.Random(2))

    assert wrong == []
    assert indexed > 100


async def test_the_index_agrees_with_the_evaluator_on_generated_data(provider, tmp_path):
    """P5: of the demonstration."""
    write_population(tmp_path / "population", patients=4)
    await loaded(provider, [tmp_path / "population"], FHIRVersion.R4)

    wrong, indexed = await differences(provider, FHIRVersion.R4, random.Random(3))

    assert wrong == []
    assert indexed > 100
