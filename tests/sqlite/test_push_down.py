"""The index against the evaluator, for every search parameter of every type there is data of."""

import random
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from helios_core.data_providers import Order, Query
from helios_core.demo.population import write_population
from helios_core.errors import InvalidParameter
from helios_core.exports import Level
from helios_core.fhir.search import any_of, compile_query
from helios_core.fhir.search.dates import interval
from helios_core.fhir.search.parameters import Parameter, compiled_parameters
from helios_core.fhir.search.references import reference_of
from helios_core.fhir.search.tokens import codings
from helios_core.fhir.versions import FHIRVersion, table
from helios_core.loading import load
from helios_core.testing import corpus

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
BUNDLES = 4
PREFIXES = ("", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")


def escaped(text):
    return "".join(f"\\{each}" if each in "\\,|$" else each for each in text)


def texts(parameter, leaf, chance):
    """Values by which a search may find a leaf."""
    match parameter.type:
        case "token":
            for system, code in codings(leaf):
                yield escaped(code)
                if system:
                    yield f"{escaped(system)}|{escaped(code)}"
        case "reference":
            reference = reference_of(leaf)
            if reference:
                yield escaped(reference)
                yield escaped(reference.rpartition("/")[2])
        case "date":
            if interval(leaf) is not None:
                dates = [leaf] if isinstance(leaf, str) else [*leaf.values()]
                yield from (
                    chance.choice(PREFIXES) + each for each in dates if isinstance(each, str)
                )
        case _:
            if isinstance(leaf, str | int | float):
                yield escaped(str(leaf))


def walked(finders, node):
    leaves = []
    for finder in finders:
        finder.walk(node, leaves)
    return leaves


def combined(composed, tree, chance):
    """Values by which a search may find the items of a composite."""
    for item in walked([composed.base], tree):
        parts = [
            [
                text
                for leaf in walked(part.finders, tree if part.rooted else item)
                for text in texts(part, leaf, chance)
            ]
            for part in composed.parts
        ]
        if all(parts):
            yield "$".join(chance.choice(part) for part in parts)


def drawn(parameter, trees, chance):
    """A few values of a parameter, out of the data."""
    leaves = [leaf for tree in trees for leaf in walked(parameter.finders, tree)]
    found = {text for leaf in leaves for text in texts(parameter, leaf, chance) if text}
    for composed in parameter.composed:
        found |= {text for tree in trees for text in combined(composed, tree, chance)}
    found = sorted(found)
    return chance.sample(found, min(2, len(found)))


def searches(version, resource_type, lines, chance):
    """Filters about each parameter of a type, and mixtures of them."""
    trees = [msgspec.json.decode(line) for line in lines]
    pairs = []
    for parameter in compiled_parameters(version, resource_type).values():
        if isinstance(parameter, Parameter):
            values = drawn(parameter, trees, chance)
            pairs += [(parameter.code, value) for value in values]
            if len(values) > 1:
                pairs.append((parameter.code, ",".join(values)))
    alone = [one for pair in pairs if (one := compiled(version, resource_type, [pair]))]
    both = [
        one
        for _ in range(len(pairs) // 4)
        if (one := compiled(version, resource_type, chance.sample(pairs, 2)))
    ]
    either = [any_of(chance.sample(alone, 2)) for _ in range(len(alone) // 4)]
    return [*alone, *both, *either]


def compiled(version, resource_type, pairs):
    try:
        return compile_query(version, resource_type, pairs)
    except InvalidParameter:
        return None  # example data has codes and dates that no search can name


async def differences(provider, version, chance):
    """Searches whose answer is not the evaluator's, and how many the index was asked for."""
    now = await provider.transaction_time()
    wrong, indexed = [], 0
    for resource_type in sorted(table(version).types):
        request = corpus.request(types=(resource_type,), fhir_version=version, level=Level.SYSTEM)
        view = corpus.view(now, request)
        for shard in await provider.plan(view, shard_bytes=1 << 40):
            lines = await read(provider.read(view, shard, batch_bytes=1 << 24))
            for condition in searches(version, resource_type, lines, chance):
                expected = [line for line in lines if condition.matches(line)]
                query = Query(filter=condition, order=Order.LAST_UPDATED)
                page = await provider.search(corpus.TENANT, version, query, count=10_000)
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


async def read(batches):
    return [line async for batch in batches for line in batch.lines]


async def loaded(provider, paths, version):
    summary = await load(list(paths), provider, tenant=corpus.TENANT, fhir_version=version)
    assert summary.created > 100


def examples(version):
    path = DATA / "spec-examples" / f"{version}.ndjson.gz"
    if not path.is_file():
        pytest.skip("the specification's examples are not in ../shared/data")
    return path


@pytest.mark.parametrize("version", [FHIRVersion.R4, FHIRVersion.R5])
async def test_the_index_agrees_with_the_evaluator_on_the_examples(provider, version):
    """P5: of the specification, for each parameter of each type."""
    await loaded(provider, [examples(version)], version)

    wrong, indexed = await differences(provider, version, random.Random(1))

    assert wrong == []
    assert indexed > 500


async def test_the_index_agrees_with_the_evaluator_on_real_bundles(provider):
    """P5: of Synthea."""
    folder = DATA / "synthea-r4" / "bundles"
    if not folder.is_dir():
        pytest.skip("the real bundles are not in ../shared/data")
    await loaded(provider, islice(sorted(folder.iterdir()), BUNDLES), FHIRVersion.R4)

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
