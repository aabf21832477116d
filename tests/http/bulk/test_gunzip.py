import gzip

import pytest

from helios_core.errors import BackendError
from helios_core.http.bulk.streaming import PIECE_BYTES, gunzip_chunks, slice_chunks

PLAIN = b"".join(b'{"line":%d}\n' % number for number in range(10_000))
STORED = gzip.compress(PLAIN)


async def chunks_of(content, size):
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def drained(chunks):
    return [chunk async for chunk in chunks]


@pytest.mark.parametrize("size", [1, 17, 4096, len(STORED)])
async def test_a_stream_is_decompressed_however_it_is_cut(size):
    assert b"".join(await drained(gunzip_chunks(chunks_of(STORED, size)))) == PLAIN


async def test_what_compresses_well_still_comes_in_bounded_pieces():
    zeros = bytes(10 * PIECE_BYTES)

    pieces = await drained(gunzip_chunks(chunks_of(gzip.compress(zeros), 1 << 20)))

    assert b"".join(pieces) == zeros
    assert max(map(len, pieces)) <= PIECE_BYTES


@pytest.mark.parametrize(
    "stored", [b"", b"not gzip at all", STORED[:-9], STORED[:2000] + b"\0" * 500]
)
async def test_a_damaged_stream_is_never_taken_for_whole(stored):
    with pytest.raises(BackendError, match="gzip"):
        await drained(gunzip_chunks(chunks_of(stored, 512)))


@pytest.mark.parametrize(("start", "length"), [(0, len(PLAIN)), (0, 1), (999, 5000), (512, 512)])
@pytest.mark.parametrize("size", [1, 512, 100_000])
async def test_a_slice_is_exactly_those_bytes(start, length, size):
    pieces = await drained(slice_chunks(chunks_of(PLAIN, size), start=start, length=length))

    assert b"".join(pieces) == PLAIN[start : start + length]


async def test_a_slice_that_is_not_all_there_is_an_error():
    with pytest.raises(BackendError, match="7 bytes shorter"):
        await drained(slice_chunks(chunks_of(b"abc", 1), start=0, length=10))
