from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.export.ndjson import to_chunks
from helios_core.storage.joined_lines import JoinedLines, joined_text, line_lengths, ndjson_size

LINES = st.lists(
    st.binary(min_size=1, max_size=5).map(lambda data: data.replace(b"\n", b"x")), max_size=8
)
INDEX = st.none() | st.integers(-10, 10)
STEP = st.sampled_from([None, 1, 2, -1])


def framed(lines: list[bytes], *, ended: bool) -> JoinedLines:
    ends = list(accumulate(len(line) + 1 for line in lines))
    return JoinedLines(b"\n".join(lines) + (b"\n" if ended and lines else b""), ends)


@given(lines=LINES, ended=st.booleans(), start=INDEX, stop=INDEX, step=STEP)
def test_framed_lines_are_the_sequence_of_the_lines(lines, ended, start, stop, step):
    part = framed(lines, ended=ended)[start:stop:step]
    expected = lines[start:stop:step]

    assert list(part) == expected
    assert len(part) == len(expected)
    assert [part[index] for index in range(len(part))] == expected
    assert list(reversed(part)) == expected[::-1]


@given(lines=LINES, ended=st.booleans(), start=INDEX, stop=INDEX)
def test_framed_lines_are_written_as_a_list_of_them_is(lines, ended, start, stop):
    part = framed(lines, ended=ended)[start:stop]
    expected = lines[start:stop]

    assert b"".join(to_chunks(part)) == b"".join(to_chunks(expected))
    assert ndjson_size(part) == ndjson_size(expected)
    assert list(line_lengths(part)) == list(line_lengths(expected))
    assert joined_text(part).removesuffix(b"\n") == joined_text(expected).removesuffix(b"\n")


def test_a_whole_is_passed_on_without_a_copy():
    text = b"one\ntwo"

    whole = JoinedLines(text, [4, 8])

    assert whole.text is text
    assert whole.chunks()[0] is text


def test_an_index_beyond_the_lines_is_an_error():
    with pytest.raises(IndexError):
        framed([b"one"], ended=False)[1]
