"""Runs are merged and superseded objects removed, and nobody who reads or writes notices."""

import asyncio
import re

import pytest

from helios_core.testing import corpus, take_snapshot
from helios_s3 import compaction
from tests.plugins.s3.resources import everything, put
from tests.proxies import Fault

EXTENT = re.compile(rb"^PUT [^ ]*/extents/")


async def test_an_export_goes_on_while_its_extents_are_merged_and_removed(resources, monkeypatch):
    monkeypatch.setattr(compaction, "RUNS_PER_LEVEL", 2)
    monkeypatch.setattr(compaction, "GRACE_SECONDS", -3600.0)
    monkeypatch.setattr(compaction, "EXTENT_GRACE_SECONDS", -3600.0)
    patients = [corpus.patient(f"p{number:03}", note="x" * 300) for number in range(200)]
    async with resources() as provider, resources() as exporter:
        await put(provider, *patients[::2])
        await provider._compactor.compact(everything=True)
        shown = corpus.view(await exporter.transaction_time())
        [shard] = await exporter.plan(shown, shard_bytes=1 << 30)
        reading = exporter.read(shown, shard, batch_bytes=1)
        first = await anext(reading)
        await put(provider, *patients[1::2])
        await provider._compactor.compact(everything=True)
        await provider._compactor.clean()

        lines = [*first.lines, *[line async for batch in reading for line in batch.lines]]
        again = await take_snapshot(exporter, shown)

    assert len(lines) == 100
    assert len(again.names) == 100


async def test_what_superseded_checkpoints_named_is_removed_and_nothing_else(
    resources, minio_bucket, monkeypatch
):
    monkeypatch.setattr(compaction, "GRACE_SECONDS", -3600.0)
    monkeypatch.setattr(compaction, "EXTENT_GRACE_SECONDS", -3600.0)
    async with resources() as provider:
        for number in range(12):
            await put(provider, corpus.patient(f"p{number}"))
            await provider._compactor.compact(everything=True)
        await put(provider, corpus.patient("last"))
        await provider._compactor.clean()
        before = (await everything(provider)).names
    client = minio_bucket.client()
    found = client.list_objects_v2(Bucket=minio_bucket.name)["Contents"]
    folders = [each["Key"].split("/")[0] for each in found]

    async with resources() as provider:
        assert (await everything(provider)).names == before

    assert len(before) == 13
    assert folders.count("checkpoints") == 1
    assert folders.count("extents") <= 2 * compaction.RUNS_PER_LEVEL
    assert folders.count("log") < 12


async def test_a_merge_that_took_too_long_changes_nothing(resources, monkeypatch):
    """Its first extents may have been removed as those of a process that was killed."""
    async with resources() as provider:
        await put(provider, corpus.patient("p"))
        with monkeypatch.context() as slow:
            slow.setattr(compaction, "LONGEST_SECONDS", -1.0)
            await provider._compactor.compact(everything=True)
            assert provider._rows.log.state.checkpoint.runs == ()
        await provider._compactor.compact(everything=True)

        assert len(provider._rows.log.state.checkpoint.runs) == 1
        assert (await everything(provider)).names == ["Patient/p"]


@pytest.mark.usefixtures("impatient")
async def test_compaction_that_fails_stops_no_write(resources, minio_proxy, monkeypatch):
    monkeypatch.setattr(compaction, "TAIL_COMMITS", 4)
    monkeypatch.setattr(compaction, "RETRY_SECONDS", 0.01)
    async with resources(endpoint=minio_proxy.url) as provider:
        minio_proxy.only, minio_proxy.faults = EXTENT, {Fault.ERROR_503: 1.0}
        for number in range(5):
            await put(provider, corpus.patient(f"p{number}"))
        while not minio_proxy.done:
            await asyncio.sleep(0.01)
        await put(provider, corpus.patient("p5"))
        minio_proxy.faults = {}
        await provider._compactor.compact(everything=True)
        names = (await everything(provider)).names

    assert len(names) == 6
