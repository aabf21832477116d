"""Each index against the evaluator, for every search parameter of every type with data."""

import random
from itertools import islice

import pytest

from helios_core.cli.demo.population import write_population
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.model.exports import Level
from helios_core.storage.data_provider import SearchQuery, SortOrder
from helios_core.storage.resource_keys import TypeKey
from helios_core.testing import corpus
from tests.push_down.conftest import QUICK
from tests.push_down.contents import BUNDLES, bundles, examples, loaded, read
from tests.push_down.searches import searches

PATIENTS = {"sqlite": 4, "postgres": 4, "mongodb": 1}
"""What stands in for MongoDB looks at everything for each search."""


async def differences(provider, version, chance):
    """Searches of which the result is not the evaluator's, and how many use the index."""
    now = await provider.transaction_time()
    wrong, indexed = [], 0
    for resource_type in sorted(load_definitions(version).types):
        request = corpus.request(types=(resource_type,), fhir_version=version, level=Level.SYSTEM)
        view, key = corpus.view(now, request), TypeKey.of(request, resource_type)
        for shard in await provider.plan(view, shard_bytes=1 << 40):
            lines = await read(provider.read(view, shard, batch_bytes=1 << 24))
            for filter_ in searches(version, resource_type, lines, chance):
                expected = [line for line in lines if filter_.matches(line)]
                query = SearchQuery(filter=filter_, order=SortOrder.LAST_UPDATED)
                page = await provider.search(key, query, count=10_000)
                if sorted(stored.content for stored in page.resources) != sorted(expected):
                    wrong.append(filter_)
                if (prefilter := filter_.prefilter()) is None:
                    continue
                indexed += 1
                candidates = provider.read_candidates(view, shard, prefilter, batch_bytes=1 << 24)
                read_lines = await read(candidates)
                if [line for line in read_lines if filter_.matches(line)] != expected:
                    wrong.append(filter_)
    return wrong, indexed


@pytest.mark.parametrize(
    "version", [FHIRVersion.R4, pytest.param(FHIRVersion.R5, marks=pytest.mark.in_turn)]
)
@pytest.mark.parametrize("opening", QUICK, indirect=True)
async def test_the_index_agrees_with_the_evaluator_on_the_examples(provider, version):
    """P5: the examples of the specification, each parameter of each type."""
    await loaded(provider, [examples(version)], version)

    wrong, indexed = await differences(provider, version, random.Random(1))

    assert wrong == []
    assert indexed > 500


@pytest.mark.parametrize("opening", QUICK, indirect=True)
async def test_the_index_agrees_with_the_evaluator_on_real_bundles(provider):
    """P5: Bundles of Synthea."""
    await loaded(provider, islice(bundles(), BUNDLES), FHIRVersion.R4)

    wrong, indexed = await differences(provider, FHIRVersion.R4, random.Random(2))

    assert wrong == []
    assert indexed > 100


@pytest.mark.parametrize(("opening", "patients"), PATIENTS.items(), indirect=["opening"])
async def test_the_index_agrees_with_the_evaluator_on_generated_data(provider, tmp_path, patients):
    """P5: the population of the demonstration."""
    write_population(tmp_path / "population", patients=patients)
    await loaded(provider, [tmp_path / "population"], FHIRVersion.R4)

    wrong, indexed = await differences(provider, FHIRVersion.R4, random.Random(3))

    assert wrong == []
    assert indexed > 100
