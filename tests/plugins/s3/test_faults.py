import asyncio
import re
import time

import pytest

from helios_core import BackendUnavailable
from helios_core.testing import (
    MIB,
    PART,
    GatedChunks,
    list_jobs,
    read_part,
    same_content,
    store_part,
    yield_chunks,
)
from tests.pace import scaled
from tests.proxies import Fault

CREATE = re.compile(rb"^POST [^ ]*\?uploads")
BLOCK = re.compile(rb"^PUT [^ ]*partNumber=")
COMPLETE = re.compile(rb"^POST [^ ]*\?uploadId=")
ABORT = re.compile(rb"^DELETE [^ ]*\?uploadId=")
GET = re.compile(rb"^GET ")
DELETE = re.compile(rb"^(DELETE |POST [^ ]*\?delete)")
CONTENT = [bytes([number]) * 900_000 for number in range(16)]


@pytest.fixture
def through(opened, proxy):
    return opened(endpoint=proxy.url)


async def test_passing_errors_neither_double_nor_truncate(through, proxy, store):
    proxy.faults = {
        Fault.ERROR_500: 0.1,
        Fault.ERROR_503: 0.1,
        Fault.CUT_REQUEST: 0.05,
        Fault.CUT_RESPONSE: 0.1,
    }

    part = await through.put(PART, yield_chunks(CONTENT))
    content = await read_part(through, PART)

    proxy.faults = {}
    assert part.size == len(b"".join(CONTENT))
    assert same_content(content, b"".join(CONTENT))
    assert same_content(await read_part(store, PART), b"".join(CONTENT))
    assert sum(proxy.done.values()) >= 1


@pytest.mark.parametrize(
    "step", [CREATE, BLOCK, COMPLETE], ids=["at the start", "amid", "at the end"]
)
@pytest.mark.usefixtures("impatient")
async def test_an_upload_that_fails_leaves_nothing(through, proxy, keys_in, step):
    proxy.only, proxy.faults = step, {Fault.ERROR_503: 1.0}

    with pytest.raises(BackendUnavailable, match="the output bucket responds with SlowDown"):
        await through.put(PART, yield_chunks(CONTENT))

    assert keys_in() == []


async def test_an_upload_whose_completion_was_not_heard_is_there(through, proxy, store):
    proxy.only, proxy.faults = COMPLETE, {Fault.CUT_RESPONSE: 1.0}
    putting = asyncio.create_task(through.put(PART, yield_chunks(CONTENT)))
    while not proxy.done:
        await asyncio.sleep(0.01)
    proxy.faults = {}

    part = await putting

    assert part.size == len(b"".join(CONTENT))
    assert same_content(await read_part(store, PART), b"".join(CONTENT))


@pytest.mark.usefixtures("impatient")
async def test_what_cannot_be_cleaned_up_is_swept_with_its_job(through, proxy, store, keys_in):
    proxy.only = re.compile(BLOCK.pattern + b"|" + ABORT.pattern)
    proxy.faults = {Fault.ERROR_503: 1.0}

    with pytest.raises(BackendUnavailable):
        await through.put(PART, yield_chunks(CONTENT))

    assert keys_in() == ["clinic/job-1/output-Patient-1-1-1.ndjson (upload)"]
    assert await list_jobs(store) == [("clinic", "job-1")]
    await store.delete("clinic", "job-1")
    assert keys_in() == []


@pytest.mark.usefixtures("impatient")
async def test_a_deletion_that_fails_says_so_and_may_be_repeated(through, proxy, keys_in):
    await store_part(through, PART, b"content")
    proxy.only, proxy.faults = DELETE, {Fault.ERROR_503: 1.0}
    with pytest.raises(BackendUnavailable):
        await through.delete("clinic", "job-1")
    proxy.faults = {}

    await through.delete("clinic", "job-1")

    assert keys_in() == []


async def test_a_download_that_is_cut_goes_on_where_it_was_cut(through, proxy):
    await through.put(PART, yield_chunks(CONTENT))
    proxy.only, proxy.faults = GET, {Fault.CUT_RESPONSE: 0.5}

    content = await read_part(through, PART, start=1_000, end=14_000_000)

    assert same_content(content, b"".join(CONTENT)[1_000:14_000_000])
    assert proxy.done[Fault.CUT_RESPONSE] >= 1


@pytest.mark.usefixtures("impatient")
async def test_a_put_cancelled_while_the_bucket_is_gone_ends_soon(through, proxy):
    gate = GatedChunks(b"a" * 12 * MIB, b"b")
    proxy.close()
    putting = asyncio.create_task(through.put(PART, gate.chunks()))
    await asyncio.sleep(0.1)
    began = time.monotonic()
    putting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await putting

    assert time.monotonic() - began < scaled(30)


@pytest.mark.usefixtures("impatient")
async def test_a_bucket_that_cannot_be_reached_is_worth_another_try(through, proxy):
    proxy.close()

    with pytest.raises(BackendUnavailable, match="the output bucket cannot be reached"):
        await store_part(through, PART, b"content")
