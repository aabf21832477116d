"""The indexer: building, following, and what keeps it from either."""

import asyncio
import itertools
from datetime import timedelta

import pytest
import structlog
from msgspec.structs import replace

from helios_core.errors import BackendError, BackendUnavailable
from helios_core.fhir import FHIRVersion
from helios_core.memory import MemoryDataProvider, MemorySearchIndex
from helios_core.storage import index_work, indexer
from helios_core.storage.data_provider import SearchQuery
from helios_core.storage.index_notes import ENTRIES_VERSION, read_note
from helios_core.storage.indexer import Indexer
from helios_core.storage.search_index import Dataset, IndexEntry, IndexQuery
from helios_core.testing import compile_searches, corpus, delete, sift_candidates, write
from tests.storage.indexed import Following, followed

DATASET = Dataset(corpus.TENANT, corpus.VERSION)
FINAL = compile_searches([[("status", "final")]])


def measurement(resource_id, status="final"):
    return corpus.measurement(resource_id, "p1", status=status, code="weight", day="2020")


@pytest.fixture
def primary():
    return MemoryDataProvider()


@pytest.fixture
def following(primary):
    return Following(primary)


async def found(following):
    """The ids of what is found by the index, or None if it was not used."""
    own = following.primary.search
    used = True

    async def without_index(*args, **options):
        nonlocal used
        used = False
        return await own(*args, **options)

    following.primary.search = without_index
    try:
        page = await following.provider.search(
            corpus.type_key("Observation"), SearchQuery(filter=FINAL), count=100
        )
    finally:
        following.primary.search = own
    return [each.id for each in page.resources] if used else None


async def entries(following, resource_type="Observation"):
    """The ids of the live entries."""
    state = await following.index.state(DATASET)
    key = DATASET.type(resource_type)
    page = await following.index.find(key, state.epoch, IndexQuery(), count=10_000)
    return [each.id for each in page]


async def status(following):
    [row] = await following.indexer.status()
    return row


async def test_the_status_says_how_far_the_index_is(following):
    assert await following.indexer.status() == []
    await write(following.primary, measurement("a"), measurement("b"))
    assert (await status(following)).state == "missing"

    await following.follow()
    row = await status(following)
    assert (row.state, row.changes, row.lag_seconds, row.entries) == ("following", 0, 0.0, 2)

    await write(following.primary, measurement("a", "amended"), delete(measurement("b")))
    row = await status(following)
    assert (row.state, row.changes, row.entries) == ("following", 2, 2)
    assert row.lag_seconds > 0


async def test_a_type_that_appears_while_types_are_listed_is_not_forgotten(following):
    primary, listed = following.primary, following.primary.collections
    await write(primary, corpus.patient("p1"))
    await following.follow()

    async def listed_late():
        keys = await listed()
        await write(primary, measurement("a"))
        primary.collections = listed
        return keys

    primary.collections = listed_late
    await following.follow()

    assert await found(following) == ["a"]


async def test_more_changes_than_one_page_has_are_indexed(following, monkeypatch):
    monkeypatch.setattr(index_work, "VERSIONS_AT_ONCE", 3)
    await write(following.primary, measurement("m"))
    await following.follow()
    for number in range(10):
        await write(following.primary, measurement(f"m{number}"))
        await write(following.primary, measurement("m", "final" if number % 2 else "amended"))
    await write(following.primary, delete(measurement("m3")))

    await following.follow()

    expected = ["m", "m0", "m1", "m2", *(f"m{number}" for number in range(4, 10))]
    assert await entries(following) == await found(following) == expected


async def test_very_many_changes_are_read_as_for_an_export(following, monkeypatch):
    """What was deleted before they were read is not known of earlier instants."""
    monkeypatch.setattr(index_work, "VERSIONS_AT_ONCE", 3)
    monkeypatch.setattr(index_work, "MAX_LISTED", 5)
    primary = following.primary
    await write(primary, *(measurement(f"m{number:02}") for number in range(20)))
    await following.follow()
    await write(primary, *(measurement(f"m{number:02}", "amended") for number in range(10)))
    await write(primary, measurement("brief"))
    then = await primary.transaction_time()
    await write(primary, delete(measurement("brief")))
    await write(primary, *(delete(measurement(f"m{number:02}")) for number in range(5, 15)))

    await following.follow()

    assert await found(following) == [f"m{number:02}" for number in range(15, 20)]
    assert (await status(following)).changes == 0
    for at in (then, await primary.transaction_time()):
        sifted = await sift_candidates(following.provider, corpus.view(at), FINAL)
        assert sifted.matches == sifted.expected


async def test_what_was_listed_of_too_many_changes_is_not_read_again(following, monkeypatch):
    monkeypatch.setattr(index_work, "VERSIONS_AT_ONCE", 3)
    monkeypatch.setattr(index_work, "MAX_LISTED", 5)
    await following.follow()
    for number in range(10):
        await write(following.primary, measurement(f"m{number}"))
        if number == 0:
            await following.follow()
    applied, apply = [], following.index.apply

    async def noted(dataset, epoch, some):
        applied.extend(each.id for each in some)
        await apply(dataset, epoch, some)

    following.index.apply = noted
    await following.follow()

    assert await found(following) == [f"m{number}" for number in range(10)]
    # The last one that was listed may share its instant with one that was not.
    assert sorted(applied) == sorted([f"m{number}" for number in range(1, 10)] + ["m4"])


async def test_a_killed_build_goes_on_where_it_was(primary):
    """Types that are done are not read again."""
    read, plan = [], primary.plan

    async def noted(view, **options):
        read.extend(view.request.types)
        return await plan(view, **options)

    primary.plan = noted
    await write(primary, *(corpus.patient(f"p{n}") for n in range(3)), measurement("a"))
    index = KilledAt("Patient")
    hours = itertools.count(0, 3600)
    with pytest.raises(BackendUnavailable):
        await Indexer(primary, index, clock=hours.__next__).follow()
    assert read == ["Observation", "Patient"]
    index.kills = None

    await Indexer(primary, index, clock=hours.__next__).follow()

    assert read == ["Observation", "Patient", "Patient"]
    assert await found(Following(primary, index)) == ["a"]


class KilledAt(MemorySearchIndex):
    """The process that applies entries of a type is killed."""

    def __init__(self, kills):
        super().__init__()
        self.kills = kills

    async def apply(self, dataset, epoch, entries):
        await super().apply(dataset, epoch, entries)
        if any(each.resource_type == self.kills for each in entries):
            raise BackendUnavailable("killed")


async def test_what_another_process_builds_is_left_to_it(primary):
    """Until nothing was heard of it for a minute."""
    await write(primary, measurement("a"))
    index = KilledAt("Observation")
    now = 1000.0
    first, second = (Indexer(primary, index, clock=lambda: now) for _ in range(2))
    with pytest.raises(BackendUnavailable):
        await first.follow()
    index.kills = None
    state = await index.state(DATASET)
    assert read_note(state).builder

    await second.follow()
    assert (await index.state(DATASET)).reached is None
    now += 61
    await second.follow(at_once=True)

    assert await found(Following(primary, index)) == ["a"]


@pytest.mark.parametrize("epoch", ["0-old", "old", f"{ENTRIES_VERSION - 1}-without-values"])
async def test_what_has_the_entries_of_an_older_release_is_built_anew(following, epoch):
    await write(following.primary, measurement("a"))
    await following.index.reset(DATASET, epoch, expected=None)
    reached = await following.primary.transaction_time()
    await following.index.advance(DATASET, epoch, reached=reached)
    assert (await status(following)).state == "outdated"
    assert await found(following) is None

    await following.follow()

    assert await found(following) == ["a"]


async def test_what_has_the_entries_of_a_newer_release_is_left_alone(following):
    await write(following.primary, measurement("a"))
    newer = await following.index.reset(DATASET, "999-new", expected=None)

    await following.follow()

    assert await following.index.state(DATASET) == newer
    assert await found(following) is None


async def test_an_index_of_other_data_is_built_anew(following):
    """As after an earlier state of the data was restored."""
    index = following.index
    await write(following.primary, measurement("a"))
    await following.follow()
    state = await index.state(DATASET)
    gone = IndexEntry(resource_type="Observation", id="gone", version_id=9, updated=0, terms=None)
    await index.apply(DATASET, state.epoch, [gone])
    ahead = await following.primary.transaction_time() + timedelta(hours=1)
    await index.advance(DATASET, state.epoch, reached=ahead)
    assert (await status(following)).state == "ahead"
    assert await found(following) is None

    with structlog.testing.capture_logs() as logs:
        await following.follow()

    assert await found(following) == ["a"]
    assert (await status(following)).entries == 1
    assert "index.ahead" in [each["event"] for each in logs]


async def test_a_rebuilt_index_has_nothing_of_before(following):
    await write(following.primary, measurement("a"))
    await write(following.primary, measurement("b"), tenant=corpus.OTHER_TENANT)
    await following.follow()

    assert await following.indexer.rebuild(tenant=corpus.TENANT) == {DATASET}
    assert [row.state for row in await following.indexer.status()] == ["building", "following"]
    assert await found(following) is None
    await following.follow()

    assert await found(following) == ["a"]
    assert [row.entries for row in await following.indexer.status()] == [1, 1]


def spoil(primary, resource_id):
    versions = primary._collections[corpus.type_key("Observation")][resource_id]
    stored = replace(versions[-1].stored, content=b'{"spoilt')
    versions[-1] = replace(versions[-1], stored=stored)


@pytest.mark.parametrize("built", [False, True])
async def test_what_cannot_be_read_is_a_candidate_of_every_search(following, built):
    """Nobody knows what it was; once it is stored again, all is well."""
    primary = following.primary
    if built:
        await following.follow()
    await write(primary, measurement("a"), measurement("b", "amended"))
    spoil(primary, "b")
    with structlog.testing.capture_logs() as logs:
        await following.follow()
    assert "index.unreadable" in [each["event"] for each in logs]

    with pytest.raises(BackendError):
        await found(following)
    sifted = await sift_candidates(
        following.provider, corpus.view(await primary.transaction_time()), FINAL
    )
    assert [each.id for each in sifted.damaged] == ["b"]

    await write(primary, measurement("b"))
    await following.follow()
    assert await found(following) == ["a", "b"]
    assert read_note(await following.index.state(DATASET)).unreadable == ()


@pytest.mark.parametrize("falls_back", [True, False])
async def test_a_search_falls_back_or_is_refused_without_its_index(primary, falls_back):
    following = Following(primary, falls_back=falls_back)
    await write(primary, measurement("a"))

    if falls_back:
        assert await found(following) is None
    else:
        with pytest.raises(BackendUnavailable, match="it is being built; try again later"):
            await found(following)


async def test_damage_that_has_no_ids_keeps_an_index_from_being_used(following):
    """The data provider is asked instead, which says so itself."""
    primary = following.primary
    await write(primary, measurement("a"), measurement("b"))
    del primary._collections[corpus.type_key("Observation")]["b"]

    with pytest.raises(BackendError):
        await following.follow()

    assert await found(following) is None
    assert (await status(following)).state == "building"


async def test_one_tenant_that_cannot_be_indexed_does_not_keep_others_from_it(following):
    primary = following.primary
    await write(primary, measurement("b"), tenant="aaa")
    await write(primary, measurement("a"))
    primary._collections[corpus.type_key("Observation", tenant="aaa")].clear()

    with pytest.raises(BackendError):
        await following.follow()

    assert await found(following) == ["a"]


async def test_a_loop_goes_on_after_an_index_was_down(following):
    """Operators are told while it lasts; what was written meanwhile is indexed afterwards."""
    await write(following.primary, measurement("a"))
    state = following.index.state

    async def down(dataset):
        raise BackendUnavailable("the index is down")

    following.index.state = down
    async with followed(following):
        await until(following.indexer.problems)
        [problem] = following.indexer.problems()
        assert "the index is down" in problem
        assert await found(following) is None
        following.index.state = state
        await until(lambda: not following.indexer.problems())

        assert await found(following) == ["a"]


async def test_an_index_is_reported_that_cannot_be_reached_while_there_is_nothing_to_index(
    following,
):
    async def down():
        raise BackendUnavailable("the index is down")

    following.index.datasets = down
    async with followed(following):
        await until(following.indexer.problems)

    assert "the index is down" in following.indexer.problems()[0]


async def test_a_search_that_does_without_the_index_is_reported_for_a_while(primary):
    """The index may be gone while nothing changes, so that nothing is to be indexed."""
    now = 0.0
    following = Following(primary, clock=lambda: now)
    await write(primary, measurement("a"))
    await following.follow()

    async def gone(*_args, **_options):
        raise BackendUnavailable("an index is missing")

    following.index.find = gone
    await following.follow()
    assert following.indexer.problems() == []

    assert await found(following) is None
    [problem] = following.indexer.problems()
    assert "an index is missing" in problem
    now += indexer.MISSED.total_seconds()
    assert following.indexer.problems() == []


async def test_a_loop_goes_on_after_a_defect(following):
    """Whatever a plugin raises is one failure, and no end of the process."""
    await write(following.primary, measurement("a"))
    collections = following.primary.collections
    for defect in (SystemExit(3), asyncio.CancelledError(), RuntimeError("secret")):

        async def broken(defect=defect):
            raise defect

        following.primary.collections = broken
        async with followed(following):
            await until(following.indexer.problems)
            assert "secret" not in following.indexer.problems()[0]
            following.primary.collections = collections
            await until(lambda: not following.indexer.problems())


async def test_a_write_wakes_the_loop(primary):
    """However long the interval is."""
    following = Following(primary)
    following.indexer = Indexer(primary, following.index, interval=timedelta(hours=1))
    async with followed(following):
        await asyncio.sleep(0)
        await write(primary, measurement("a"))
        following.indexer.wake(corpus.TENANT, corpus.VERSION)

        await until_true(lambda: has_entry(following, "a"))


async def has_entry(following, resource_id):
    return await following.index.state(DATASET) and resource_id in await entries(following)


async def test_a_quiet_tenant_is_looked_at_less_often(primary, monkeypatch):
    now, looked = 0.0, []
    monkeypatch.setattr(indexer.time, "monotonic", lambda: now)
    index = MemorySearchIndex()
    state = index.state

    async def noted(dataset):
        looked.append(now)
        return await state(dataset)

    index.state = noted
    follower = Indexer(primary, index, interval=timedelta(seconds=1))
    await write(primary, measurement("a"))
    for _ in range(60):
        await follower.follow()
        now += 1

    gaps = [later - earlier for earlier, later in itertools.pairwise(looked)]
    assert gaps[:2] == [1, 2]
    assert max(gaps) == 10
    follower.wake(corpus.TENANT, corpus.VERSION)
    await follower.follow()
    assert looked[-1] == now


async def test_an_index_that_is_long_behind_is_logged_now_and_then(following, monkeypatch):
    monkeypatch.setattr(indexer, "LAG", timedelta(0))
    await write(following.primary, measurement("a"), measurement("b"))
    with structlog.testing.capture_logs() as logged:
        await following.follow()

    [line] = [each for each in logged if each["event"] == "index.behind"]
    assert (line["tenant"], line["entries"]) == (corpus.TENANT, 2)
    assert line["seconds"] >= 0


async def test_versions_and_tenants_have_indexes_of_their_own(following):
    r5 = FHIRVersion.R5
    await write(following.primary, measurement("a"))
    await write(following.primary, measurement("b"), tenant=corpus.OTHER_TENANT)
    await write(following.primary, corpus.patient("p", fhir_version=r5), fhir_version=r5)

    await following.follow()

    rows = await following.indexer.status()
    assert [(row.tenant, row.fhir_version, row.entries) for row in rows] == [
        (corpus.TENANT, corpus.VERSION, 1),
        (corpus.TENANT, r5, 1),
        (corpus.OTHER_TENANT, corpus.VERSION, 1),
    ]
    assert await found(following) == ["a"]


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def until_true(condition):
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.001)
