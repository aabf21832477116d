"""JSON that is not from here: read in one way only, or not at all."""

import pytest

from helios_core import read_json_object


def test_an_object_is_read_with_its_numbers():
    text = b' {"exp": 1.5, "aud": ["x"], "cnf": {"n": 3}} '

    assert read_json_object(text) == {"exp": 1.5, "aud": ["x"], "cnf": {"n": 3}}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{} {}",
        b'{"sub":"secret","sub":"x"}',
        b'{"sub":"secret","\\u0073ub":"x"}',
        b'{"a":[{"sub":"secret","sub":"x"}]}',
        b'{"exp":NaN}',
        b'{"exp":1e999}',
        b'{"exp":-Infinity}',
        b'{"exp":' + b"9" * 5000 + b"}",
        b'{"sub":"\xff"}',
        b'{"sub":"\\ud800"}',
        b'{"sub":"secret\\u0000"}',
        b"\xef\xbb\xbf{}",
        b'{"secret":' * 5000 + b"1" + b"}" * 5000,
        b"{" * 100_000,
    ],
    ids=lambda text: repr(text[:24]),
)
def test_what_two_readers_could_read_differently_is_refused_without_a_word_of_it(text):
    with pytest.raises(ValueError, match="not a JSON object") as refused:
        read_json_object(text)

    assert "secret" not in str(refused.value)
