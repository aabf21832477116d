import gzip
import io
from collections.abc import AsyncGenerator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.export.ndjson import (
    LARGE_LINE_BYTES,
    LineCutter,
    PartCutter,
    gzip_chunks,
    read_ahead,
    to_chunks,
)
from helios_core.model.completeness import lines_digest
from helios_core.storage.data_provider import Batch


async def stream(*batches: Sequence[bytes]) -> AsyncGenerator[Batch]:
    for lines in batches:
        yield Batch(lines=lines)


async def cut(cutter: PartCutter) -> list[bytes]:
    parts = []
    while await cutter.more():
        parts.append(b"".join([chunk async for chunk in cutter.part()]))
    return parts


@given(
    batches=st.lists(st.lists(st.binary(min_size=1, max_size=9).map(lambda b: b.hex().encode()))),
    max_bytes=st.integers(1, 60),
    max_rows=st.none() | st.integers(1, 5),
)
async def test_parts_joined_are_the_lines_in_order_and_keep_both_limits(
    batches, max_bytes, max_rows
):
    lines = [line for batch in batches for line in batch]

    parts = await cut(LineCutter(stream(*batches), max_bytes=max_bytes, max_rows=max_rows))

    assert b"".join(parts) == b"".join(line + b"\n" for line in lines)
    for part in parts:
        rows = part.count(b"\n")
        assert rows >= 1
        assert len(part) <= max_bytes or rows == 1
        assert max_rows is None or rows <= max_rows


@pytest.mark.parametrize("max_bytes", [4, 6, 100])
async def test_digests_of_a_batch_are_summed_and_not_computed_again(max_bytes):
    async def source() -> AsyncGenerator[Batch]:
        yield Batch(lines=[b"1", b"2", b"3"], digests=[10, 20, 30])
        yield Batch(lines=[b"4"])

    cutter = LineCutter(source(), max_bytes=max_bytes, max_rows=None)
    total = 0
    while await cutter.more():
        _ = [chunk async for chunk in cutter.part()]
        total += cutter.digest_sum

    assert total == 60 + lines_digest([b"4"])


async def test_a_part_is_filled_before_the_next_one_begins():
    cutter = LineCutter(stream([b"1", b"2"], [b"3"], [b"4", b"5"]), max_bytes=6, max_rows=None)

    parts = await cut(cutter)

    assert parts == [b"1\n2\n3\n", b"4\n5\n"]
    assert (cutter.rows, cutter.bytes, cutter.total_rows) == (2, 4, 5)


async def test_a_line_larger_than_a_part_gets_a_part_of_its_own():
    parts = await cut(LineCutter(stream([b"1", b"22222222", b"3"]), max_bytes=4, max_rows=None))

    assert parts == [b"1\n", b"22222222\n", b"3\n"]


async def test_no_lines_make_no_part():
    assert await cut(LineCutter(stream([], []), max_bytes=4, max_rows=None)) == []


def test_large_lines_are_passed_on_without_a_copy():
    large = b"x" * (LARGE_LINE_BYTES + 1)

    chunks = to_chunks([b"a", large, b"b", b"c"])

    assert chunks == [b"a\n", large, b"\n", b"b\nc\n"]
    assert chunks[1] is large


async def test_gzipped_chunks_decompress_to_what_went_in():
    chunks = [b"abc\n" * 1000, b"", b"def\n" * 1000]

    async def source() -> AsyncGenerator[bytes]:
        for chunk in chunks:
            yield chunk

    packed = b"".join([chunk async for chunk in gzip_chunks(source())])

    assert gzip.GzipFile(fileobj=io.BytesIO(packed)).read() == b"".join(chunks)


async def test_reading_ahead_keeps_order_and_passes_errors_on():
    async def source() -> AsyncGenerator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    reader = read_ahead(source())

    assert [await anext(reader), await anext(reader)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        await anext(reader)


async def test_leaving_early_closes_the_source():
    closed = []

    async def source() -> AsyncGenerator[int]:
        try:
            for number in range(100):
                yield number
        finally:
            closed.append(True)

    reader = read_ahead(source())
    assert await anext(reader) == 0
    await reader.aclose()

    assert closed == [True]
