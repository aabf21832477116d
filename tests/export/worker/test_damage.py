"""
Whole exports from damaged files: none is complete and short without a word.

HFS_TEST_FUZZ_RUNS is how many damaged files are tried of each kind.
"""

import os
import random
import sqlite3
from contextlib import AsyncExitStack, closing

import pytest

from helios_core import BackendError, ConfigurationError, HeliosError
from helios_core.model.jobs import JobStatus
from helios_core.model.parts import PartKind
from helios_sqlite import SQLiteSettings, open_data_provider, open_job_store
from tests.damage import DAMAGES_OF_FILES
from tests.export.worker.hospital import Hospital, group, observation, patient

RUNS = int(os.environ.get("HFS_TEST_FUZZ_RUNS", "4"))

EXPORTS = {
    "everything": ([], {}),
    "a group": ([], {"group": "g1"}),
    "by date": ([("_type", "Observation"), ("_typeFilter", "Observation?date=ge2020-06")], {}),
    "by subject": ([("_type", "Observation"), ("_typeFilter", "Observation?subject=p7")], {}),
}


@pytest.fixture
async def opened():
    """Open hospitals in a folder, with the jobs in memory or beside the resources."""
    async with AsyncExitStack() as stack:

        async def open_in(folder, *, jobs=False):
            settings = SQLiteSettings(data_dir=str(folder), synchronous="normal", busy_timeout=0.3)
            hospital = Hospital(await stack.enter_async_context(open_data_provider(settings)))
            if jobs:
                hospital.job_store = await stack.enter_async_context(open_job_store(settings))
            return hospital

        yield open_in, stack


async def fill(hospital):
    await hospital.store(group("g1", *(f"Patient/p{n}" for n in range(40)), type="person"))
    for start in range(0, 120, 40):
        await hospital.store(
            *(patient(f"p{n}") for n in range(start, start + 40)),
            *(
                observation(f"o{n}-{month}", f"p{n}", effectiveDateTime=f"2020-{month:02}-01")
                for n in range(start, start + 40)
                for month in range(1, 13, 3)
            ),
        )
    await hospital.store(*(patient(f"p{n}", active=True) for n in range(10)))
    for n in range(5):
        await hospital.delete("Observation", f"o{n}-1")


async def exported(hospital, name):
    """Return what an export has, or None if it says that something is wrong."""
    query, options = EXPORTS[name]
    try:
        job = await hospital.kick_off(*query, **options)
        job = await hospital.work(job)
        errors = await hospital.lines(job, PartKind.ERROR)
        lines = await hospital.lines(job)
    except HeliosError:
        return None
    if job.status is not JobStatus.COMPLETE or errors:
        return None
    return sorted(f"{line['resourceType']}/{line['id']}" for line in lines)


async def built(opened, folder):
    """Return the bytes of a file, and what is exported from it."""
    open_in, stack = opened
    hospital = await open_in(folder)
    await fill(hospital)
    shown = {name: await exported(hospital, name) for name in EXPORTS}
    assert all(shown.values())
    await stack.aclose()
    return (folder / "helios.db").read_bytes(), shown


@pytest.mark.fuzz
@pytest.mark.parametrize("damage", DAMAGES_OF_FILES)
async def test_no_export_of_a_damaged_file_is_short_without_a_word(opened, tmp_path, damage):
    """P9: it has everything, or error lines, or ends in error."""
    whole, shown = await built(opened, tmp_path)
    open_in, stack = opened
    for run in range(RUNS):
        seed = f"{damage.__name__}-{run}"
        rng = random.Random(seed)
        content = bytearray(whole)
        damage(content, rng)
        for suffix in ("-wal", "-shm"):
            (tmp_path / f"helios.db{suffix}").unlink(missing_ok=True)
        (tmp_path / "helios.db").write_bytes(content)

        try:
            hospital = await open_in(tmp_path)
            for name, expected in shown.items():
                found = await exported(hospital, name)
                assert (seed, name, found) in ((seed, name, None), (seed, name, expected))
        except (BackendError, ConfigurationError):
            continue
        finally:
            await stack.aclose()


async def test_an_export_that_lost_a_shard_ends_in_error(opened, tmp_path):
    """J20: it would be complete early, and short."""
    open_in, _ = opened
    hospital = await open_in(tmp_path, jobs=True)
    await fill(hospital)
    job = await hospital.kick_off(shard_bytes=2000)
    with closing(sqlite3.connect(tmp_path / "helios.db")) as raw, raw:
        assert raw.execute("DELETE FROM shards WHERE number = 3").rowcount == 1

    job = await hospital.work(job)

    assert job.status is JobStatus.ERROR
    assert "missing from the job store" in job.failure
