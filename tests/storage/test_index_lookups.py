"""What searches ask of an index: no more than they need, and almost nothing while it is down."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from helios_core import BackendUnavailable, Dataset
from helios_core.memory import MemorySearchIndex
from helios_core.storage.index_lookups import IndexLookups, IndexUnusable
from helios_core.storage.index_notes import new_epoch
from helios_core.testing import corpus

PATIENTS = corpus.type_key("Patient")
DATASET = Dataset(PATIENTS.tenant, PATIENTS.fhir_version)
LONG = timedelta(seconds=3600)


class Watched(MemorySearchIndex):
    """Counts how often its state is read; may be down, and may take its time."""

    def __init__(self):
        super().__init__()
        self.reads = 0
        self.is_down = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def state(self, dataset):
        self.reads += 1
        await self.answers.wait()
        if self.is_down:
            raise BackendUnavailable("the index is down")
        return await super().state(dataset)


async def built(index, unique):
    """Have the index built anew."""
    before = await MemorySearchIndex.state(index, DATASET)
    await index.reset(DATASET, new_epoch(unique), expected=before and before.epoch)
    await index.advance(DATASET, new_epoch(unique), reached=datetime.now(UTC))


@pytest.fixture
async def index():
    index = Watched()
    await built(index, "one")
    return index


async def test_searches_in_a_row_begin_with_what_was_read_last(index):
    lookups = IndexLookups(index, recent_seconds=LONG.total_seconds())

    for _ in range(3):
        await lookups.check(await lookups.reached(PATIENTS, recently=True))

    assert index.reads == 1 + 3


async def test_an_export_begins_with_what_holds_by_now(index):
    lookups = IndexLookups(index, recent_seconds=LONG.total_seconds())
    await lookups.reached(PATIENTS)
    await built(index, "two")

    assert (await lookups.reached(PATIENTS)).epoch == new_epoch("two")


async def test_what_was_read_long_ago_is_read_again(index):
    lookups = IndexLookups(index, recent_seconds=-1)

    for _ in range(3):
        await lookups.reached(PATIENTS, recently=True)

    assert index.reads == 3


async def test_a_search_that_begins_with_an_ended_epoch_is_refused_once(index):
    lookups = IndexLookups(index, recent_seconds=LONG.total_seconds())
    await lookups.reached(PATIENTS)
    await built(index, "two")

    with pytest.raises(IndexUnusable):
        await lookups.check(await lookups.reached(PATIENTS, recently=True))

    await lookups.check(await lookups.reached(PATIENTS, recently=True))


async def test_one_search_finds_out_whether_an_index_is_back_and_others_do_not_wait(index):
    lookups = IndexLookups(index, time_limit=LONG, rest_seconds=0)
    index.is_down = True
    with pytest.raises(IndexUnusable):
        await lookups.reached(PATIENTS)

    index.answers.clear()
    first = asyncio.ensure_future(lookups.reached(PATIENTS))
    while index.reads < 2:
        await asyncio.sleep(0)
    for _ in range(3):
        with pytest.raises(IndexUnusable):
            await lookups.reached(PATIENTS)
    assert index.reads == 2

    index.is_down = False
    index.answers.set()
    await first
    await lookups.reached(PATIENTS)
    assert index.reads == 3
