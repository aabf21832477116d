"""
Searches and exports with an index find what the evaluator finds at the same instant.

Writers change resources all the time, and the indexer is paused, slow, killed, one of several, or
has to begin anew; the index answers late, and now and then not at all.
"""

import asyncio
import itertools
import os
import random
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial

import msgspec
import pytest

import helios_postgres
import helios_sqlite
from helios_core.errors import BackendError, BackendUnavailable
from helios_core.fhir.instants import from_stamp, to_stamp
from helios_core.fhir.resources import parse_resource
from helios_core.fhir.search.filters import Condition, all_conditions, make_filter
from helios_core.fhir.search.sorting import parse_sort
from helios_core.interactions.sorting import sorted_page
from helios_core.memory import MemoryDataProvider, MemorySearchIndex
from helios_core.storage.data_provider import Delete, Put, SearchQuery, SortOrder
from helios_core.storage.indexer import Indexer
from helios_core.storage.page_tokens import parse_page_token, place_in_order
from helios_core.storage.secrets import Secret
from helios_core.storage.stamped_lines import stored_line
from helios_core.testing import SEARCHES, compile_searches, corpus, sift_candidates
from tests.storage.indexed import Following

ROUNDS = int(os.environ.get("HFS_TEST_FUZZ_RUNS", "24"))
"""How many searches, of several pages each, and exports are compared in each trouble."""

OBSERVATIONS = corpus.type_key("Observation")
IDS = [f"m{number}" for number in range(40)]
CODES = ("weight", "height", "Pulse")
DAYS = ("2020", "2020-02", "2020-02-28", "2021-03-01T10:00:00+02:00")
TIMES = (
    {},
    {"effectivePeriod": {"start": "2020-02", "end": "2021"}},
    {"effectivePeriod": {"end": "2020-02"}},
    *({"effectiveDateTime": day} for day in DAYS),
)
SORTS = ("date", "-date", "-date,status", "date,-_id", "value-date,date")


class LeftToTheCore(Exception):
    """The index does not help with a sorted page."""


def measurement(chance, resource_id):
    resource = corpus.measurement(
        resource_id,
        f"p{chance.randrange(4)}",
        status=chance.choice(("final", "amended", "registered")),
        code=chance.choice(CODES),
        day=DAYS[0],
    )
    elements = msgspec.json.decode(resource.stamped(1, from_stamp(0)))
    del elements["effectiveDateTime"], elements["meta"]
    return parse_resource(msgspec.json.encode(elements | chance.choice(TIMES)), corpus.VERSION)


def some_filter(chance):
    """A search, or one whose prefilter lets through five times what matches."""
    filter_ = compile_searches(chance.choice(SEARCHES))
    if chance.random() < 0.5:
        return filter_
    few = Condition(
        test=lambda resource: int(resource["id"][1:]) % 5 == 0, elements=frozenset({"id"})
    )
    return make_filter("Observation", all_conditions([filter_.condition, few]))


async def turns(chance, most=3):
    """Let the others go on for a while."""
    for _ in range(chance.randrange(most)):
        await asyncio.sleep(0)


class SlowIndex(MemorySearchIndex):
    """Takes entries one by one, and lets others go on in the middle of everything."""

    def __init__(self, chance):
        super().__init__()
        self.chance = chance
        self.failing = 0.0

    async def _may_fail(self):
        await turns(self.chance)
        if self.chance.random() < self.failing:
            raise BackendUnavailable("the index is away")

    async def state(self, dataset):
        await self._may_fail()
        return await super().state(dataset)

    async def apply(self, dataset, epoch, entries):
        shuffled = self.chance.sample(entries, len(entries))
        for entry in shuffled:
            await self._may_fail()
            await super().apply(dataset, epoch, [entry])

    async def find(self, *args, **options):
        await self._may_fail()
        await turns(self.chance, self.chance.choice((3, 3, 200)))
        found = await super().find(*args, **options)
        await turns(self.chance)
        return found

    async def advance(self, *args, **options):
        await self._may_fail()
        return await super().advance(*args, **options)


class World:
    """A primary that is written to, an index that follows, and a history of instants."""

    def __init__(self, primary, chance):
        self.chance = chance
        self.primary = primary
        self.index = SlowIndex(chance)
        # What was read of the index by one search is what the next one begins with.
        self.following = Following(primary, self.index, recent_seconds=3600)
        self.instants = defaultdict[asyncio.Task, list[datetime]](list)
        self.past = list[datetime]()
        self.searched_itself = False
        self.sorted_by_index = 0
        transaction_time, fetch, search = primary.transaction_time, primary.fetch, primary.search

        async def noted():
            await turns(chance)
            instant = await transaction_time()
            self.instants[asyncio.current_task()].append(instant)
            return instant

        async def interrupted(*args, **options):
            await turns(chance)
            return await fetch(*args, **options)

        async def without_index(*args, **options):
            self.searched_itself = True
            return await search(*args, **options)

        primary.transaction_time, primary.fetch = noted, interrupted
        primary.search = without_index

    async def write(self):
        """Store, change and delete resources, several at once, for ever."""
        while True:
            await self.write_once()
            await turns(self.chance, 12)
            await asyncio.sleep(0)

    async def write_once(self):
        changes = [
            Delete(resource_type="Observation", id=resource_id)
            if self.chance.random() < 0.3
            else Put(resource=measurement(self.chance, resource_id))
            for resource_id in self.chance.sample(IDS, self.chance.randint(1, 4))
        ]
        await self.primary.write(corpus.TENANT, corpus.VERSION, changes)

    async def search(self):
        """Search once, and compare with the evaluator; return whether the index was used."""
        filter_ = some_filter(self.chance)
        order, count = self.chance.choice([*SortOrder]), self.chance.randint(1, 12)
        query = SearchQuery(filter=filter_, order=order, total=self.chance.random() < 0.3)
        after = None
        while True:
            task = asyncio.current_task()
            self.instants[task].clear()
            self.searched_itself = False
            page = await self.following.provider.search(
                OBSERVATIONS, query, count=count, after=after
            )
            if self.searched_itself:
                return False
            instants = list(self.instants[task])
            at_once = await self.matches(query, instants[0])
            rest = at_once if after is None else behind(at_once, after, order)
            assert [each.content for each in page.resources] == [
                each.content for each in rest[:count]
            ]
            assert page.resources == rest[:count]
            assert (page.next is None) == (len(rest) <= count)
            if query.total:
                assert page.total in [len(await self.matches(query, each)) for each in instants]
            self.past.append(instants[0])
            after = page.next
            if after is None or self.chance.random() < 0.5:
                return True

    async def search_sorted(self):
        """Sort by values, and compare with the evaluator; return whether the index was used."""
        sort = parse_sort(corpus.VERSION, "Observation", self.chance.choice(SORTS))
        query = SearchQuery(filter=some_filter(self.chance))
        count = self.chance.randint(1, 12)
        first_matches = partial(self.following.provider.first_matches, OBSERVATIONS)
        after = last = None
        while True:
            instants = self.instants[asyncio.current_task()]
            instants.clear()
            try:
                page = await sorted_page(
                    left_to_the_core,
                    query,
                    sort,
                    count=count,
                    after=after,
                    find_first=first_matches,
                )
            except LeftToTheCore:
                return False
            self.sorted_by_index += 1

            def position(stored):
                return sort.position(sort.values(stored.content), stored.id)

            at_once = sorted(await self.matches(query, instants[-1]), key=position)
            rest = [each for each in at_once if last is None or last < position(each)]
            assert page.resources == rest[:count]
            assert (page.next is None) == (len(rest) <= count)
            after = page.next
            if after is None or self.chance.random() < 0.3:
                return True
            last = position(page.resources[-1])

    async def matches(self, query, instant):
        """What matches at an instant, in order."""
        batch = await self.primary.fetch(OBSERVATIONS, IDS, at=instant)
        stored = [stored_line("Observation", line) for line in batch.lines]
        matching = [each for each in stored if query.filter.matches(each.content)]
        return sorted(matching, key=lambda each: place(each, query.order))

    async def export(self):
        """Read the candidates of an export that began now or some time ago."""
        filter_ = some_filter(self.chance)
        now = await self.primary.transaction_time()
        at = self.chance.choice([now, *self.past[-20:]])
        found = await sift_candidates(self.following.provider, corpus.view(at), filter_)
        assert found.matches == found.expected


async def left_to_the_core(*_args, **_options):
    raise LeftToTheCore


def place(stored, order):
    return place_in_order(to_stamp(stored.last_updated), stored.id, order)


def behind(ordered, token, order):
    last = parse_page_token(token, order)
    begin = place_in_order(last.stamp, last.id, order)
    return [each for each in ordered if place(each, order) > begin]


async def paused(world):
    """The indexer came once, and then never again."""
    await world.following.follow()
    await asyncio.Event().wait()


async def slow(world):
    """The indexer is always at work and never done."""
    while True:
        with suppress(BackendError):
            await world.following.follow()
        await turns(world.chance, 40)
        await asyncio.sleep(0)


async def killed(world):
    """Indexers are killed at any point; the next one knows nothing of them."""
    hours = itertools.count(0, 3600)
    while True:
        indexer = Indexer(world.primary, world.index, clock=hours.__next__)
        working = asyncio.ensure_future(indexer.follow(at_once=True))
        try:
            await turns(world.chance, 120)
            await asyncio.sleep(0)
        finally:
            # Also at the end of the test, or it would work on with an index that is closed.
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


async def several(world):
    """Several indexers do the same."""
    await asyncio.gather(*(slow(world) for _ in range(3)))


async def begun_anew(world):
    """Now and then somebody has the index built anew; a search that began before falls back."""
    world.following.lookups.recent_seconds = 0
    while True:
        with suppress(BackendError):
            await world.following.follow()
            if world.chance.random() < 0.1:
                await world.following.indexer.rebuild()
        await turns(world.chance, 40)
        await asyncio.sleep(0)


async def away(world):
    """Of what is asked of the index, a part fails."""
    world.index.failing = 0.02
    await slow(world)


TROUBLES = [paused, slow, killed, several, begun_anew, away]


@asynccontextmanager
async def beside(*endless):
    """Run endless tasks while the block runs."""
    tasks = [asyncio.ensure_future(each) for each in endless]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            raise task.exception()


async def compare(world, trouble, rounds, *, indexed, sorted_by_index=0):
    """
    Search, sort and export in so many rounds, and in more until enough went through the index.

    How many do depends on when the indexer gets its turn, which is the machine's choice.
    """
    for _ in range(10):
        await world.write_once()
    await world.following.follow()
    async with beside(world.write(), trouble(world)):
        for done in itertools.count(1):
            indexed -= await world.search()
            indexed -= await world.search_sorted()
            await world.export()
            if done >= rounds and indexed <= 0 and world.sorted_by_index >= sorted_by_index:
                return
            assert done < 100 * rounds, "the index is hardly ever used"
            await turns(world.chance, 20)


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda each: each.__name__)
@pytest.mark.parametrize("seed", range(2))
async def test_what_is_found_in_memory_is_exact(trouble, seed):
    world = World(MemoryDataProvider(), random.Random(seed))
    await compare(world, trouble, ROUNDS, indexed=6, sorted_by_index=1)


@asynccontextmanager
async def opened_sqlite(folder):
    settings = helios_sqlite.SQLiteSettings(data_dir=str(folder), synchronous="normal")
    async with helios_sqlite.open_data_provider(settings) as provider:
        yield provider


@asynccontextmanager
async def opened_postgres(url):
    settings = helios_postgres.PostgresSettings(database_url=Secret(url))
    await helios_postgres.migrate(settings)
    async with helios_postgres.open_data_provider(settings) as provider:
        yield provider


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda each: each.__name__)
async def test_what_is_found_in_sqlite_is_exact(tmp_path, trouble):
    async with opened_sqlite(tmp_path) as primary:
        await compare(World(primary, random.Random(4)), trouble, ROUNDS // 4, indexed=2)


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda each: each.__name__)
async def test_what_is_found_in_postgresql_is_exact(postgres_url, trouble):
    async with opened_postgres(postgres_url) as primary:
        await compare(World(primary, random.Random(5)), trouble, ROUNDS // 4, indexed=2)
