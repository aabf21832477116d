"""Shards cut by counts: they cover everything once, and their sizes add up."""

from hypothesis import given
from hypothesis import strategies as st

from helios_core.storage.shard_ranges import SeqRun, cut_shards, total_size

RUNS = st.lists(st.tuples(st.integers(1, 4096), st.integers(0, 1 << 22)), min_size=1, max_size=20)


def runs_of(counts):
    return [
        SeqRun(first=place << 12, seqs=seqs, resources=seqs, bytes=size)
        for place, (seqs, size) in enumerate(counts)
    ]


@given(counts=RUNS, shard_bytes=st.integers(1 << 16, 1 << 24))
def test_shards_lie_end_to_end_and_add_up(counts, shard_bytes):
    runs = runs_of(counts)
    size = total_size(runs)

    shards = list(cut_shards("Patient", runs, size, shard_bytes=shard_bytes))

    starts = [shard.start for shard in shards]
    assert starts[0] is None
    assert [shard.end for shard in shards] == [*starts[1:], None]
    inner = [int(start) for start in starts[1:]]
    assert inner == sorted(set(inner))
    assert all(runs[0].first < start <= runs[-1].end for start in inner)
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert [shard.ordinal for shard in shards] == list(range(1, len(shards) + 1))
    assert sum(shard.resources for shard in shards) == size.resources
    assert sum(shard.bytes for shard in shards) == size.bytes


def test_shards_are_cut_where_the_bytes_are():
    runs = runs_of([(100, 1000), (100, 3000)])

    shards = list(cut_shards("Patient", runs, total_size(runs), shard_bytes=2000, start="5"))

    assert [(shard.start, shard.end) for shard in shards] == [("5", "4129"), ("4129", None)]
    assert [shard.bytes for shard in shards] == [2000, 2000]


def test_where_no_bytes_are_there_is_one_shard():
    runs = runs_of([(10, 0)])
    size = total_size(runs_of([(10, 5000)]))

    [shard] = cut_shards("Patient", runs, size, shard_bytes=1000)

    assert (shard.start, shard.end, shard.bytes) == (None, None, 5000)
