from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.export.ndjson import frame
from helios_core.storage.joined_lines import Framed, lengths_of, size_of, text_of

LINES = st.lists(
    st.binary(min_size=1, max_size=5).map(lambda data: data.replace(b"\n", b"x")), max_size=8
)
INDEX = st.none() | st.integers(-10, 10)
STEP = st.sampled_from([None, 1, 2, -1])


def framed(lines: list[bytes], *, ended: bool) -> Framed:
    ends = list(accumulate(len(line) + 1 for line in lines))
    return Framed(b"\n".join(lines) + (b"\n" if ended and lines else b""), ends)


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

    assert b"".join(frame(part)) == b"".join(frame(expected))
    assert size_of(part) == size_of(expected)
    assert list(lengths_of(part)) == list(lengths_of(expected))
    assert text_of(part).removesuffix(b"\n") == text_of(expected).removesuffix(b"\n")


def test_a_whole_is_passed_on_without_a_copy():
    text = b"one\ntwo"

    whole = Framed(text, [4, 8])

    assert whole.text is text
    assert whole.chunks()[0] is text


def test_an_index_beyond_the_lines_is_an_error():
    with pytest.raises(IndexError):
        framed([b"one"], ended=False)[1]
