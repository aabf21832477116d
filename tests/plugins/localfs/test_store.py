import asyncio
import os
import stat
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from helios_core import BackendUnavailable, PartMissing
from helios_core.testing import (
    MIB,
    PART,
    GatedChunks,
    list_jobs,
    read_part,
    store_part,
    yield_chunks,
)
from helios_localfs import files
from helios_localfs.files import PartReader, PartWriter

OPEN_FILES = Path("/proc/self/fd")
PUT_FOREVER = """
import asyncio, sys
from pathlib import Path
from helios_core.testing import PART
from helios_localfs import LocalOutputStore

async def chunks():
    while True:
        yield b"a" * 1_500_000
        print("written", flush=True)

asyncio.run(LocalOutputStore(Path(sys.argv[1])).put(PART, chunks()))
"""


async def test_files_and_folders_are_for_the_server_alone(store, root):
    await store_part(store, PART, b"content")

    job = root / "clinic/job-1"
    assert stat.S_IMODE(job.stat().st_mode) == 0o700
    assert [stat.S_IMODE(part.stat().st_mode) for part in job.iterdir()] == [0o600]


async def test_the_names_of_folders_are_synced_once_a_job(store, root, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    second, other = (
        msgspec.structs.replace(PART, number=2),
        msgspec.structs.replace(PART, job_id="job-2"),
    )

    for part in (PART, second, other):
        await store_part(store, part, b"content")

    one, two, above = root / "clinic/job-1", root / "clinic/job-2", [root / "clinic", root]
    assert synced == [one, *above, one, two, *above]


async def test_a_part_is_synced_before_it_is_visible_and_its_folders_after(
    store, root, monkeypatch
):
    synced = []
    fsync = os.fsync

    def recorded(descriptor):
        path = (OPEN_FILES / str(descriptor)).readlink()
        visible = (root / "clinic/job-1/output-Patient-1-1-1.ndjson").exists()
        synced.append((os.path.relpath(path, root), visible))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)

    await store_part(store, PART, b"content")

    assert synced == [
        ("clinic/job-1/output-Patient-1-1-1.ndjson.tmp", False),
        ("clinic/job-1", True),
        ("clinic", True),
        (".", True),
    ]


async def test_a_read_that_has_begun_outlives_the_part(store):
    await store_part(store, PART, b"a" * 5 * MIB)
    reading = store.read(PART)
    first = await anext(reading)

    await store.delete(PART.tenant, PART.job_id)

    rest = [chunk async for chunk in reading]
    assert len(first) + sum(map(len, rest)) == 5 * MIB
    with pytest.raises(PartMissing):
        await read_part(store, PART)


async def test_the_message_of_a_missing_part_holds_no_path(store, root):
    with pytest.raises(PartMissing, match=r"Patient-1-1\.ndjson is gone") as missing:
        await read_part(store, PART)

    assert str(root) not in str(missing.value)


async def test_a_read_that_stops_early_closes_its_file(store):
    await store_part(store, PART, b"a" * 5 * MIB)
    open_before = _open_files()

    reading = store.read(PART)
    await anext(reading)
    await reading.aclose()

    assert _open_files() == open_before


async def test_failed_puts_close_their_files(store):
    open_before = _open_files()

    for number in range(20):
        gate = GatedChunks(b"a" * 2 * MIB, b"")
        key = msgspec.structs.replace(PART, number=number)
        async with asyncio.TaskGroup() as tasks:
            putting = tasks.create_task(store.put(key, gate.chunks()))
            await gate.reached()
            putting.cancel()

    assert _open_files() == open_before


async def test_a_put_overtaken_by_delete_is_told_so_and_not_logged(store):
    """Whoever deletes a running export has no disk that fails."""
    gate = GatedChunks(b"a" * 2 * MIB, b"b")

    with capture_logs() as lines:
        await _overtake(store, gate)

    assert lines == []


async def _overtake(store, gate):
    async with asyncio.TaskGroup() as tasks:
        putting = tasks.create_task(_failure_of_put(store, gate))
        await gate.reached()
        await store.delete(PART.tenant, PART.job_id)
        gate.open()

    assert "removed meanwhile" in putting.result()


async def test_many_puts_racing_many_deletes_leave_whole_parts_or_nothing(store, root):
    keys = [msgspec.structs.replace(PART, number=number) for number in range(12)]

    for _ in range(10):
        ends = await asyncio.gather(
            *(store.put(key, yield_chunks([b"a" * 1000] * 20)) for key in keys),
            *(store.delete(PART.tenant, PART.job_id) for _ in keys),
            return_exceptions=True,
        )
        failures = {type(end) for end in ends if isinstance(end, BaseException)}
        parts = [path for path in root.rglob("*") if path.is_file()]
        assert failures <= {BackendUnavailable}
        assert {(path.suffix, path.stat().st_size) for path in parts} <= {(".ndjson", 20_000)}

    await store.delete(PART.tenant, PART.job_id)
    assert await list_jobs(store) == []


@pytest.fixture
def killed_put(root, python):
    process = python(PUT_FOREVER, root)
    for _ in range(5):
        assert process.stdout.readline() == "written\n"
    process.kill()
    process.wait()


@pytest.mark.crash
@pytest.mark.usefixtures("killed_put")
async def test_a_put_that_is_killed_leaves_nothing_under_the_parts_name(store, root):
    assert [path.suffix for path in (root / "clinic/job-1").iterdir()] == [".tmp"]
    with pytest.raises(PartMissing):
        await read_part(store, PART)


@pytest.mark.crash
@pytest.mark.usefixtures("killed_put")
async def test_what_a_killed_put_leaves_hinders_nobody_and_goes_with_the_job(store):
    await store_part(store, msgspec.structs.replace(PART, token=2), b"next attempt")

    await store.delete(PART.tenant, PART.job_id)

    assert await list_jobs(store) == []


async def test_discard_takes_the_draft_of_a_killed_attempt(store, root):
    await store_part(store, PART, b"content")
    draft = root / "clinic/job-1/output-Patient-1-1-1.ndjson.tmp"
    draft.write_bytes(b"half")

    await store.discard(PART)

    assert list((root / "clinic/job-1").iterdir()) == []


def test_a_writer_and_a_reader_that_are_not_open_say_so(tmp_path):
    with pytest.raises(OSError, match="Bad file descriptor"):
        PartWriter(tmp_path / "part").write([b"a"])
    with pytest.raises(OSError, match="Bad file descriptor"):
        PartReader(tmp_path / "part").read(1, start=0)


async def _failure_of_put(store, gate):
    with pytest.raises(BackendUnavailable) as failure:
        await store.put(PART, gate.chunks())
    return str(failure.value)


def _open_files():
    return len(list(OPEN_FILES.iterdir()))
