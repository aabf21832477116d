import errno
import os
import shutil

import msgspec
import pytest
from structlog.testing import capture_logs

from helios_core import BackendUnavailable
from helios_core.testing import (
    MIB,
    PART,
    GatedChunks,
    list_jobs,
    read_part,
    store_part,
    yield_chunks,
)
from helios_localfs import LocalOutputStore
from helios_localfs.errors import meaning, unavailable
from helios_localfs.layout import part_path

PUT_UNDER_A_LIMIT = """
import asyncio, resource, sys
from pathlib import Path
from helios_core import BackendUnavailable
from helios_core.testing import PART, yield_chunks
from helios_localfs import LocalOutputStore

resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))
try:
    asyncio.run(LocalOutputStore(Path(sys.argv[1])).put(PART, yield_chunks([b"a" * 3_000_000])))
except BackendUnavailable as error:
    print(error)
"""


@pytest.fixture
def disk(small_disk):
    return LocalOutputStore(small_disk)


async def test_a_full_disk_fails_the_part_and_leaves_nothing(disk, small_disk):
    with pytest.raises(BackendUnavailable, match="out of space") as failure:
        await disk.put(PART, yield_chunks([b"a" * MIB] * 8))

    assert isinstance(failure.value.__cause__, OSError)
    assert str(small_disk) not in str(failure.value)
    assert list((small_disk / "clinic/job-1").iterdir()) == []


@pytest.mark.parametrize("call", ["write", "fsync"])
async def test_an_error_of_an_open_file_is_logged_with_its_path(tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)

    with capture_logs() as lines, pytest.raises(BackendUnavailable) as failure:
        await LocalOutputStore(tmp_path).put(PART, yield_chunks([b"a"]))

    [line] = [line for line in lines if line["event"] == "output.failed"]
    assert (line["errno"], line["path"]) == ("ENOSPC", str(part_path(tmp_path, PART)))
    assert str(tmp_path) not in str(failure.value)


async def test_a_full_disk_leaves_earlier_parts_readable(disk):
    await store_part(disk, PART, b"earlier" * 1000)

    with pytest.raises(BackendUnavailable):
        await disk.put(msgspec.structs.replace(PART, number=2), yield_chunks([b"a" * MIB] * 8))

    assert await read_part(disk, PART) == b"earlier" * 1000


async def test_a_put_works_once_there_is_space_again(disk, small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"a" * 3 * MIB)
    with pytest.raises(BackendUnavailable):
        await disk.put(PART, yield_chunks([b"a" * MIB] * 2))

    ballast.unlink()

    assert (await disk.put(PART, yield_chunks([b"a" * MIB] * 2))).size == 2 * MIB


async def test_a_disk_that_becomes_read_only_is_named(disk, small_disk, make_read_only):
    await store_part(disk, PART, b"content")
    make_read_only(small_disk)

    with pytest.raises(BackendUnavailable, match="mounted read-only"):
        await disk.delete(PART.tenant, PART.job_id)
    assert await read_part(disk, PART) == b"content"


def test_a_file_size_limit_of_the_process_fails_the_part(root, python):
    answer, errors = python(PUT_UNDER_A_LIMIT, root).communicate()

    assert "cannot hold a file that large" in answer, errors
    assert [path for path in root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EDQUOT, "disk quota"),
        (errno.EMFILE, "too many open files"),
        (errno.EIO, "disk that reports errors"),
        (errno.EACCES, "change its permissions"),
        (errno.ESTALE, "mount it again"),
        (errno.EBUSY, "cannot be used: Device or resource busy"),
    ],
)
def test_an_error_of_the_system_becomes_a_reason_without_a_path(number, reason):
    error = OSError(number, os.strerror(number), "/srv/exports/clinic")

    assert reason in str(unavailable(error))
    assert "/srv" not in str(unavailable(error))


def test_an_error_without_a_number_is_named_by_its_class():
    assert meaning(TimeoutError()) == "cannot be used: TimeoutError"


async def test_a_folder_that_vanishes_under_a_put_is_reported(store, root):
    gate = GatedChunks(b"a" * 2 * MIB, b"b")

    async def chunks():
        async for chunk in gate.chunks():
            yield chunk
            shutil.rmtree(root, ignore_errors=True)
            gate.open()

    with pytest.raises(BackendUnavailable, match="removed meanwhile"):
        await store.put(PART, chunks())
    assert not root.exists()


async def test_what_cannot_be_cleaned_up_does_not_hide_the_failure(store, root):
    draft = root / "clinic/job-1/output-Patient-1-1-1.ndjson.tmp"

    async def chunks():
        yield b"a" * 2 * MIB
        draft.unlink()
        draft.mkdir()
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        await store.put(PART, chunks())


async def test_a_second_writer_of_one_part_is_refused_and_the_first_one_finishes(store):
    gate = GatedChunks(b"first" * MIB, b"!")
    refused = []

    async def chunks():
        async for chunk in gate.chunks():
            yield chunk
            with pytest.raises(BackendUnavailable, match="another attempt") as error:
                await store_part(store, PART, b"second")
            refused.append(error)
            gate.open()
            break

    await store.put(PART, chunks())

    assert len(refused) == 1
    assert await read_part(store, PART) == b"first" * MIB


async def test_a_folder_in_the_place_of_a_part_is_reported(store, root):
    (root / "clinic/job-1/output-Patient-1-1-1.ndjson").mkdir(parents=True)

    with pytest.raises(BackendUnavailable, match="cannot be used"):
        await read_part(store, PART)


async def test_a_link_that_leads_in_circles_is_reported(store, root):
    (root / "clinic/job-1").mkdir(parents=True)
    part = root / "clinic/job-1/output-Patient-1-1-1.ndjson"
    part.symlink_to(part)

    with pytest.raises(BackendUnavailable, match="cannot be used"):
        await read_part(store, PART)


async def test_a_folder_inside_a_job_is_reported_and_left_alone(store, root):
    (root / "clinic/job-1/strange").mkdir(parents=True)

    with pytest.raises(BackendUnavailable):
        await store.delete("clinic", "job-1")

    assert await list_jobs(store) == [("clinic", "job-1")]
