"""Writers of resources in a bucket: many at once, killed, and overtaken."""

import asyncio
import json
import signal
import subprocess
import sys
from contextlib import AsyncExitStack

import pytest

from helios_core import BackendError, Delete, Put, VersionConflict
from helios_core.testing import corpus
from helios_s3 import compaction, log
from helios_s3.objects import Objects
from tests.plugins.s3.resources import everything, put

WRITER = """
import asyncio, json, sys
from helios_core import Put, Secret
from helios_core.testing import corpus
from helios_s3 import S3ResourceSettings, compaction, open_data_provider

async def main(name, rows, settings):
    compaction.TAIL_ROWS, compaction.RUNS_PER_LEVEL = int(rows), 2
    known = json.loads(settings)
    for secret in ("access_key_id", "secret_access_key"):
        known[secret] = Secret(known[secret])
    async with open_data_provider(S3ResourceSettings(**known)) as provider:
        number = 0
        while True:
            changes = [
                Put(resource=corpus.patient(f"{name}-{number}-{each}", note="x" * 500))
                for each in range(10)
            ]
            await provider.write(corpus.TENANT, corpus.VERSION, changes)
            print(number, flush=True)
            number += 1

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def writer(minio_bucket):
    """Start processes that write ten resources at a time, and say what was accepted."""
    started = []
    settings = json.dumps(
        {
            "bucket": minio_bucket.name,
            "endpoint": minio_bucket.endpoint,
            "allow_http": True,
            "force_path_style": True,
            "region": minio_bucket.region,
            "access_key_id": minio_bucket.access_key,
            "secret_access_key": minio_bucket.secret_key,
        }
    )

    def start(name, *, rows=1_000_000):
        command = [sys.executable, "-c", WRITER, name, str(rows), settings]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.stdout.close()
        process.wait()


async def test_sixteen_writers_lose_nothing(resources):
    """Each reads a counter and raises it on condition, until all have done so four times."""
    async with AsyncExitStack() as stack:
        writers = [await stack.enter_async_context(resources()) for _ in range(16)]
        await put(writers[0], corpus.patient("counter", note="0"))
        key = corpus.type_key("Patient").resource("counter")

        async def count(provider):
            done = 0
            while done < 4:
                stored = await provider.get(key)
                raised = corpus.patient("counter", note=str(stored.version_id))
                try:
                    await put(provider, raised, if_match=stored.version_id)
                except VersionConflict:
                    continue
                done += 1

        await asyncio.gather(*map(count, writers))

        seen = {(await each.get(key)).version_id for each in writers}
        history = await writers[0].history(key, count=100)
        stamps = [version.last_updated for version in history]
    assert seen == {65}
    assert [version.version_id for version in history] == list(range(65, 0, -1))
    assert stamps == sorted(set(stamps), reverse=True)


@pytest.mark.crash
async def test_a_killed_writer_leaves_whole_writes_and_all_it_acknowledged(writer, resources):
    processes = [writer(name) for name in ("a", "b", "c")]
    accepted = {}
    for name, process in zip("abc", processes, strict=True):
        for _ in range(5):
            accepted[name] = int(await asyncio.to_thread(process.stdout.readline))
        process.send_signal(signal.SIGKILL)
        for line in await asyncio.to_thread(process.stdout.readlines):
            accepted[name] = int(line)

    async with resources() as provider:
        names = (await everything(provider)).names

    for name, last in accepted.items():
        own = [int(each.split("-")[1]) for each in names if each.startswith(f"Patient/{name}-")]
        assert set(range(last + 1)) <= set(own) <= set(range(last + 2))
        assert all(own.count(number) == 10 for number in own)


@pytest.mark.crash
async def test_a_kill_amid_compaction_loses_and_doubles_nothing(writer, resources, monkeypatch):
    """The process compacts all the time; another one goes on where it was killed, and exports."""
    monkeypatch.setattr(compaction, "TAIL_ROWS", 20)
    monkeypatch.setattr(compaction, "RUNS_PER_LEVEL", 2)
    async with resources() as provider:
        expected = set()
        for attempt in range(4):
            process = writer(f"k{attempt}", rows=20)
            last = -1
            for _ in range(7 + attempt):
                last = int(await asyncio.to_thread(process.stdout.readline))
            snapshot = await everything(provider)
            process.send_signal(signal.SIGKILL)
            for line in await asyncio.to_thread(process.stdout.readlines):
                last = int(line)
            expected |= {
                f"Patient/k{attempt}-{number}-{each}"
                for number in range(last + 1)
                for each in range(10)
            }
            assert len(set(snapshot.names)) == len(snapshot.names)

        await put(provider, corpus.patient("z"))
        await provider._compactor.compact(everything=True)
        names = (await everything(provider)).names
    assert expected <= set(names)
    assert len(set(names)) == len(names)


async def test_a_commit_that_is_gone_is_noticed_at_start(resources, minio_bucket):
    async with resources() as provider:
        for number in range(3):
            await put(provider, corpus.patient(f"p{number}"))
    client = minio_bucket.client()
    client.delete_object(Bucket=minio_bucket.name, Key="log/0000000000000002")

    with pytest.raises(BackendError, match="commit 2 is missing"):
        await resources().__aenter__()


async def test_a_writer_that_stood_still_does_not_take_a_number_that_was_used(
    resources, monkeypatch
):
    """Its next number looks free, since the commit that had it was merged and removed."""
    monkeypatch.setattr(compaction, "GRACE_SECONDS", -3600.0)
    monkeypatch.setattr(compaction, "EXTENT_GRACE_SECONDS", -3600.0)
    async with resources() as provider, resources() as sleeper:
        await put(sleeper, corpus.patient("p", note="1"))
        elapsed = log.elapsed
        await put(provider, corpus.patient("p", note="2"))
        await put(provider, corpus.patient("q"))
        await provider._compactor.compact(everything=True)
        await provider._compactor.clean()
        monkeypatch.setattr(log, "elapsed", lambda: elapsed() + log.GRACE_SECONDS)

        [applied] = await put(sleeper, corpus.patient("p", note="3"))

        key = corpus.type_key("Patient").resource("p")
        assert applied.version_id == 3
        assert (await provider.get(key)).version_id == 3


async def test_a_load_takes_a_request_for_five_hundred_resources(resources, monkeypatch):
    asked = []

    def count(name):
        ask = getattr(Objects, name)

        async def counted(self, *arguments):
            asked.append(name)
            return await ask(self, *arguments)

        monkeypatch.setattr(Objects, name, counted)

    async with resources() as provider:
        for name in ("get", "ranges", "create", "put"):
            count(name)
        for begin in range(0, 20_000, 1000):
            await put(
                provider, *(corpus.patient(f"p{number}") for number in range(begin, begin + 1000))
            )
    assert len(asked) <= 40


async def test_a_deletion_and_a_new_version_in_one_write_are_one_commit(resources):
    async with resources() as provider:
        await put(provider, corpus.patient("p"))
        number = provider._rows.log.state.number
        applied = await provider.write(
            corpus.TENANT,
            corpus.VERSION,
            [Delete(resource_type="Patient", id="p"), Put(resource=corpus.patient("p", note="2"))],
        )

        assert [each.version_id for each in applied] == [2, 3]
        assert provider._rows.log.state.number == number + 1
