"""Several processes on one file, some of them killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest

from helios_core.testing import corpus
from helios_sqlite import migrate, open_data_provider

WRITER = """
import asyncio, json, sys
from helios_core import Put
from helios_core.testing import corpus
from helios_sqlite import SQLiteSettings, open_data_provider

async def main(folder, name):
    async with open_data_provider(SQLiteSettings(data_dir=folder)) as provider:
        number = 0
        while True:
            changes = [
                Put(resource=corpus.patient(f"{name}-{number}-{each}", note="x" * 500))
                for each in range(10)
            ]
            applied = await provider.write(corpus.TENANT, corpus.VERSION, changes)
            print(json.dumps([number, applied[0].last_updated.isoformat()]), flush=True)
            number += 1

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def writer(settings):
    started = []

    def start(name):
        command = [sys.executable, "-c", WRITER, settings.data_dir, name]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.stdout.close()
        process.wait()


async def acknowledged(process, count):
    lines = [await asyncio.to_thread(process.stdout.readline) for _ in range(count)]
    return [json.loads(line) for line in lines]


@pytest.mark.crash
async def test_a_killed_writer_leaves_whole_writes_and_all_it_acknowledged(writer, settings, raw):
    for round_ in range(3):
        process = writer(f"w{round_}")
        done = await acknowledged(process, 20)
        os.kill(process.pid, signal.SIGKILL)
        rest = await asyncio.to_thread(process.stdout.read)
        done += [json.loads(line) for line in rest.splitlines(keepends=True) if line[-1] == "\n"]

        async with open_data_provider(settings) as provider:
            await provider.transaction_time()
        rows = raw.execute(
            "SELECT substr(id, 1, length(id) - 2), count(*) FROM versions"
            " WHERE id LIKE ? GROUP BY 1",
            (f"w{round_}-%",),
        ).fetchall()

        assert {f"w{round_}-{number}" for number, _ in done} <= {name for name, _ in rows}
        assert {count for _, count in rows} == {10}
    assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.crash
async def test_writers_of_other_processes_never_slip_under_a_transaction_time(writer, settings):
    """P1: what an instant shows is the same whenever one looks."""
    await migrate(settings)
    processes = [writer("a"), writer("b")]
    for process in processes:
        await acknowledged(process, 1)
    async with open_data_provider(settings) as provider:
        seen = []
        # Until something was written meanwhile, which takes as long as others use the machine.
        while len(seen) < 20 or seen[0][1] == seen[-1][1]:
            at = await provider.transaction_time()
            seen.append((at, await count(provider, at)))
            await asyncio.sleep(0.01)
        for process in processes:
            await acknowledged(process, 5)

        assert [(at, await count(provider, at)) for at, _ in seen] == seen


async def count(provider, at):
    shown = corpus.view(at)
    total = 0
    for shard in await provider.plan(shown, shard_bytes=1_000_000):
        async for batch in provider.read(shown, shard, batch_bytes=10_000):
            total += len(batch.lines)
    return total
