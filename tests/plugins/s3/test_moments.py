"""A look at the log is of one moment, whatever is compacted while it waits for the bucket."""

import msgspec
import pytest

from helios_core import Put, SearchQuery, SortOrder, VersionQuery
from helios_core.fhir import compile_query
from helios_core.testing import corpus
from helios_core.testing.snapshots import read_batches
from helios_s3 import compaction, compartments, open_data_provider, planning
from helios_s3.objects import Objects

KEY = corpus.type_key("Observation")


async def read(planner, reader, view):
    """Return the names of what a view shows, planned by one process and read by another."""
    found = []
    for shard in await planner.plan(view, shard_bytes=300):
        for batch in await read_batches(reader, view, shard):
            found += [msgspec.json.decode(line)["id"] for line in batch.lines]
    return found


async def of_system(planner, reader, at):
    return await read(planner, reader, corpus.view(at))


async def of_cohort(planner, reader, at):
    return await read(planner, reader, corpus.view(at, patients=["p1", "p2"]))


async def planned_as_well(_, reader, at):
    return await read(reader, reader, corpus.view(at, patients=["p1", "p2"]))


async def searched(_, reader, at):
    final = compile_query(corpus.VERSION, KEY.resource_type, [("status", "final")])
    query = SearchQuery(filter=final, order=SortOrder.LAST_UPDATED)
    return [
        stored.id for stored in (await reader.search(KEY, query, count=100, after=None)).resources
    ]


async def of_versions(_, reader, at):
    query = VersionQuery(
        tenant=corpus.TENANT, fhir_version=corpus.VERSION, types=(KEY.resource_type,), until=at
    )
    page = await reader.versions(query, count=100, after=None)
    return [version.id for version in page.versions]


async def by_id(_, reader, at):
    batch = await reader.fetch(KEY, [f"o{number}" for number in range(100)], at=at)
    return [msgspec.json.decode(line)["id"] for line in batch.lines]


REQUESTS = 8
"""During how many requests of a look, one after the other, there is a compaction."""

LOOKS = {
    "system": of_system,
    "cohort": of_cohort,
    "plan": planned_as_well,
    "search": searched,
    "versions": of_versions,
    "fetch": by_id,
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
async def test_what_is_compacted_during_a_look_is_seen(
    minio_bucket, resource_settings, monkeypatch, look
):
    """Whichever request it waits for: what the tail has no more is in the runs by then."""
    monkeypatch.setattr(compaction, "RUNS_PER_LEVEL", 4)
    monkeypatch.setattr(planning, "INDEXED_SHARE", 1000.0)
    monkeypatch.setattr(compartments, "PIECE_BYTES", 500)
    ranges, asked, wanted = Objects.ranges, 0, 0

    async def ranges_and_compaction(self, *arguments):
        nonlocal asked
        if self is not reader._rows.log.objects:
            return await ranges(self, *arguments)
        asked += 1
        compacts = asked == wanted
        found = await ranges(self, *arguments)
        if compacts:
            await reader._compactor.compact(everything=True)
        return found

    monkeypatch.setattr(Objects, "ranges", ranges_and_compaction)
    stored = list[str]()
    async with open_data_provider(resource_settings(minio_bucket)) as first:
        for number in range(3):
            stored.append(f"o{number}")
            observation = corpus.observation(stored[-1], "p1", note="x" * 200)
            await first.write(corpus.TENANT, corpus.VERSION, [Put(resource=observation)])
            await first._compactor.compact(everything=True)
    for number in range(1, REQUESTS + 1):
        # One that knows nothing of the extents yet, so that it has to ask for them.
        async with (
            open_data_provider(resource_settings(minio_bucket)) as planner,
            open_data_provider(resource_settings(minio_bucket)) as reader,
        ):
            stored.append(f"o{len(stored)}")
            observation = corpus.observation(stored[-1], "p2", note="x" * 200)
            await reader.write(corpus.TENANT, corpus.VERSION, [Put(resource=observation)])
            at = await reader.transaction_time()
            asked, wanted = 0, number

            found = await look(planner, reader, at)

        assert sorted(found) == sorted(stored)
