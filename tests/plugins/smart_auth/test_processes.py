"""Several processes on one job store."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from helios_smart_auth.signing_keys import SigningKeys
from tests.plugins.smart_auth.issuing import Server, form

ROOT = Path(__file__).parents[3]
PROCESSES = 3

pytestmark = pytest.mark.process


def fields_of(settings):
    if hasattr(settings, "data_dir"):
        return {"data_dir": settings.data_dir, "synchronous": "normal"}
    names = ("schema", "database")
    own = {name: getattr(settings, name) for name in names if hasattr(settings, name)}
    return {"database_url": settings.database_url.reveal()} | own


@asynccontextmanager
async def presenting(plugin, settings, fields):
    """A process that presents a form five times when it is told to."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.plugins.smart_auth.presenting", plugin.__name__),
        *(json.dumps(fields_of(settings)), json.dumps(fields)),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_of_equal_requests_to_several_processes_one_gets_a_token(database, store):
    """SM-13, TR-73: at the same moment."""
    await Server(store).register()
    fields = form()
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(presenting(*database, fields))
            for _ in range(PROCESSES)
        ]
        for process in processes:
            process.stdin.write(b"\n")
        lines = await asyncio.gather(*(process.stdout.readline() for process in processes))

    statuses = [status for line in lines for status in json.loads(line)]
    assert sorted(statuses) == [200] + [400] * (5 * PROCESSES - 1)


async def test_all_processes_sign_with_the_key_that_one_has_made(database, store):
    plugin, settings = database
    async with plugin.open_job_store(settings) as other:
        rings = await asyncio.gather(*(SigningKeys(each).ring() for each in (store, other) * 5))

    assert len({ring.keys[0].kid for ring in rings}) == 1


async def test_two_rotations_at_once_lose_no_key(database, store):
    keys = [SigningKeys(store) for _ in range(4)]
    first = (await keys[0].ring()).keys[0].kid

    await asyncio.gather(*(each.rotate() for each in keys))

    ring = await SigningKeys(store).ring()
    assert len({key.kid for key in ring.keys}) == 5
    assert ring.keys[-1].kid == first
    assert [key.retired_at is None for key in ring.keys] == [True] + [False] * 4
