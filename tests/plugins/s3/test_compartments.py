"""A cohort is read from the index of compartments."""

from random import Random

import pytest

from helios_core import Delete, Put
from helios_core.testing import corpus, take_snapshot
from helios_s3 import (
    compaction,
    compartments,
    encoding,
    extents,
    planning,
    tail,
)
from helios_s3.encoding import hash_id
from helios_s3.objects import Objects
from tests.plugins.s3.resources import put


@pytest.fixture
def small(monkeypatch):
    """Let a few resources fill several runs, extents and pieces."""
    monkeypatch.setattr(compaction, "TAIL_ROWS", 60)
    monkeypatch.setattr(compaction, "RUNS_PER_LEVEL", 2)
    monkeypatch.setattr(extents, "BLOCK_ROWS", 8)
    monkeypatch.setattr(compartments, "PIECE_BYTES", 1000)
    monkeypatch.setattr(compartments, "SEGMENT_BYTES", 2000)
    monkeypatch.setattr(encoding, "MOST_PATIENTS", 3)
    monkeypatch.setattr(compartments, "BATCH_BYTES", 2000)
    monkeypatch.setattr(compartments, "BATCH_PATIENTS", 2)


async def test_compartments_show_of_a_cohort_what_a_scan_shows(resources, small, monkeypatch):
    """While resources come and go from one patient to several others, and are deleted."""
    random = Random(7)
    patients = [f"p{number}" for number in range(8)]
    instants = []
    async with resources() as provider:
        for _ in range(12):
            for _ in range(3):
                changes = []
                for number in random.sample(range(40), 8):
                    of = random.sample(patients, random.choice([0, 1, 1, 2, 6]))
                    note = str(random.random())
                    resource = corpus.observation(f"o{number}", *of, note=note)
                    delete = Delete(resource_type="Observation", id=f"o{number}")
                    changes.append(random.choice([Put(resource=resource)] * 4 + [delete]))
                await provider.write(corpus.TENANT, corpus.VERSION, changes)
            instants.append(await provider.transaction_time())
            if random.random() < 0.7:
                await provider._compactor.compact(everything=True)

        for at in instants[::3]:
            for size in (1, 3, 7):
                cohort = random.sample([*patients, "unknown"], size)
                since = random.choice([None, *instants])
                wanted = corpus.request(types=("Observation",), since=since)
                shown = corpus.view(at, wanted, patients=cohort)
                found = []
                for share in (1000.0, -1.0):
                    monkeypatch.setattr(planning, "INDEXED_SHARE", share)
                    snapshot = await take_snapshot(provider, shown, shard_bytes=1000)
                    found.append((sorted(snapshot.lines), snapshot.deleted, snapshot.damaged))
                assert found[0] == found[1]

    assert any(len(run.segments) > 1 for run in provider._rows.log.state.checkpoint.runs)


async def test_a_cohort_is_read_with_few_requests_and_bytes(resources, monkeypatch):
    """Of two hundred patients two have one hundredth, and that is about what is read."""
    read = []
    ranges = Objects.ranges

    async def counted(self, key, wanted):
        found = await ranges(self, key, wanted)
        read.extend(map(len, found))
        return found

    monkeypatch.setattr(Objects, "ranges", counted)
    observations = [
        corpus.observation(f"{hash_id(str(number)):x}", f"p{number % 200}", note="x" * 1000)
        for number in range(6000)
    ]
    async with resources() as provider:
        for begin in range(0, 6000, 1000):
            await put(provider, *observations[begin : begin + 1000])
        await provider._compactor.compact(everything=True)
        at = await provider.transaction_time()
    async with resources() as provider:
        read.clear()
        wanted = corpus.request(types=("Observation",))
        snapshot = await take_snapshot(provider, corpus.view(at, wanted, patients=["p7", "p77"]))

    assert len(snapshot.lines) == 60
    assert len(read) <= 30
    assert sum(read) <= 500_000


@pytest.mark.parametrize("compacted", [True, False])
async def test_a_patient_with_little_costs_little_among_many(resources, monkeypatch, compacted):
    """Be they in a run, or still in the tail of the log."""
    looked = []
    owner, unpack = compartments._owner, compartments._unpack

    def counted_owner(shown, row):
        looked.append(row)
        return owner(shown, row)

    def counted_unpack(*piece):
        entries = unpack(*piece)
        looked.extend(entries)
        return entries

    monkeypatch.setattr(compartments, "_owner", counted_owner)
    monkeypatch.setattr(compartments, "_unpack", counted_unpack)
    observations = [corpus.observation(f"o{number}", f"p{number}") for number in range(3000)]
    async with resources() as provider:
        await put(provider, *observations)
        if compacted:
            await provider._compactor.compact(everything=True)
        at = await provider.transaction_time()
        wanted = corpus.request(types=("Observation",))
        snapshot = await take_snapshot(provider, corpus.view(at, wanted, patients=["p7"]))

    assert len(snapshot.lines) == 1
    assert 0 < len(looked) < 1000


def test_the_tail_finds_by_patient_what_it_finds_by_a_look_at_all():
    random = Random(3)
    patients = [f"p{number}" for number in range(6)]
    rest = tail.Tail()
    for number in range(1, 60):
        rows = []
        for name in random.sample(range(8), 3):
            of = " ".join(random.sample(patients, random.choice([0, 1, 2])))
            left = " ".join(random.sample(patients, random.choice([0, 0, 1])))
            rows.append(encoding.Row(f"o{name}", number, number, 2, 0, 0, of, left))
        commit = encoding.Commit(number, "", number, rows=(("north", tuple(rows)),))
        rest.append(number, commit, [b"{}"] * 3)
        rest = rest.after(number - random.choice([20, 5]))

        cohort = frozenset(random.sample(patients, random.choice([1, 5])))
        found = [*rest.in_compartments("north", cohort)]
        assert sorted(map(str, found)) == sorted(
            str((patient, each))
            for _, each in rest.all_rows()
            for patient in cohort.intersection(each.row.compartments)
        )
    assert not [*rest.after(60).in_compartments("north", frozenset(patients))]
