"""What is particular to Elasticsearch: its indices, its limits, and what is left of old epochs."""

from datetime import UTC, datetime

import httpx
import msgspec
import pytest

from helios_core import BackendUnavailable, IndexEntry, IndexQuery
from helios_core.fhir import AllOf, AnyId, AnyOf, AnyTerm, IndexTerms, SpanWithin
from helios_core.memory import MemorySearchIndex
from helios_core.testing import SEARCHES, compile_searches
from helios_elasticsearch import open_search_index
from helios_elasticsearch.mappings import LAYOUT
from helios_elasticsearch.queries import MAX_CLAUSES, requests


def entry(number, *terms, resource_type="Patient"):
    return IndexEntry(
        resource_type=resource_type,
        id=f"p{number}",
        version_id=1,
        updated=number,
        terms=IndexTerms(terms=frozenset(terms or {number}), spans=((5, number, number + 10),)),
    )


@pytest.fixture
async def begun(index, dataset):
    await index.reset(dataset, "one", expected=None)
    return index


def ask(settings, path, method="GET"):
    url = f"{settings.nodes[0]}/{path}"
    return httpx.request(method, url, timeout=60).raise_for_status()


def indices(settings):
    return sorted(ask(settings, f"_cat/indices/{settings.prefix}-*?h=index").text.split())


async def test_every_search_that_an_index_helps_takes_one_exact_request():
    for alternatives in SEARCHES:
        prefilter = compile_searches(alternatives).prefilter()
        if prefilter is not None:
            (request,) = requests("build/Observation", IndexQuery(prefilter=prefilter))
            assert request.exact, alternatives


async def test_a_prefilter_may_have_more_conditions_than_a_query(begun, dataset):
    entries = [entry(number) for number in range(50)]
    await begun.apply(dataset, "one", entries)
    memory = MemorySearchIndex()
    await memory.reset(dataset, "one", expected=None)
    await memory.apply(dataset, "one", entries)
    many = range(25, 2 * MAX_CLAUSES)
    pairs = AnyOf(
        tuple(
            AllOf((AnyTerm(frozenset({number})), SpanWithin(group=5, low_to=number)))
            for number in many
        )
    )
    spans = AnyOf(tuple(SpanWithin(group=5, low_from=n, high_to=n + 10) for n in many))
    names = AnyOf((AnyId(frozenset({"p1"})), spans))
    everything = AnyOf((AllOf(()), spans))

    for prefilter in (pairs, spans, names, everything, AllOf((everything, pairs))):
        for query in (
            IndexQuery(prefilter=prefilter),
            IndexQuery(prefilter=prefilter, changed_after=40),
        ):
            key = dataset.type("Patient")
            expected = await memory.find(key, "one", query, count=100)
            assert list(await begun.find(key, "one", query, count=100)) == expected
            assert await begun.count(key, "one", query) == len(expected)
            (first,) = await begun.find(key, "one", query, count=1)
            assert first == expected[0]


async def test_an_index_that_is_gone_is_unavailable_and_not_made_again_without_mappings(
    begun, dataset, settings
):
    await begun.apply(dataset, "one", [entry(1)])
    (entries,) = [name for name in indices(settings) if "-r4-" in name]
    ask(settings, entries, "DELETE")
    key = dataset.type("Patient")

    for call in (
        begun.find(key, "one", IndexQuery(), count=10),
        begun.count(key, "one", IndexQuery()),
        begun.apply(dataset, "one", [entry(2)]),
        begun.size(dataset, "one"),
    ):
        with pytest.raises(BackendUnavailable, match="helios index rebuild"):
            await call
    assert entries not in indices(settings)
    await begun.reset(dataset, "two", expected="one")
    await begun.apply(dataset, "two", [entry(3)])
    assert [each.id for each in await begun.find(key, "two", IndexQuery(), count=10)] == ["p3"]


async def test_the_states_that_are_gone_are_not_made_again_without_mappings(
    begun, dataset, settings
):
    ask(settings, f"{settings.prefix}-{LAYOUT}-state-index", "DELETE")

    assert await begun.state(dataset) is None
    assert await begun.datasets() == []
    assert not await begun.advance(dataset, "one", reached=datetime.now(UTC))
    assert not [name for name in indices(settings) if "state" in name]


async def test_entries_of_earlier_epochs_are_removed_by_and_by(begun, dataset, settings):
    await begun.apply(dataset, "one", [entry(number) for number in range(30)])
    await begun.reset(dataset, "two", expected="one")
    await begun.apply(dataset, "two", [entry(1)])
    (entries,) = [name for name in indices(settings) if "-r4-" in name]

    for _ in range(3):
        assert await begun.advance(dataset, "two", reached=None)

    assert ask(settings, f"{entries}/_count").json()["count"] == 1
    assert await begun.size(dataset, "two") == 1


async def test_servers_with_different_prefixes_share_a_cluster(begun, dataset, settings):
    other = msgspec.structs.replace(settings, prefix=f"{settings.prefix}-2")
    async with open_search_index(other) as second:
        assert await second.state(dataset) is None
        await second.reset(dataset, "one", expected=None)
        await second.apply(dataset, "one", [entry(1)])

    assert await begun.size(dataset, "one") == 0


async def test_the_number_of_fields_is_fixed(begun, dataset, settings):
    (entries,) = [name for name in indices(settings) if "-r4-" in name]
    before = ask(settings, f"{entries}/_mapping").json()
    await begun.apply(
        dataset, "one", [entry(n, n, -n, resource_type=f"Type{n}") for n in range(1, 40)]
    )

    assert ask(settings, f"{entries}/_mapping").json() == before
    assert before[entries]["mappings"]["dynamic"] == "strict"
