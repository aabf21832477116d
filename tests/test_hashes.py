"""Hashes keep their bits where integers have a sign."""

from hypothesis import given
from hypothesis import strategies as st

from helios_core.hashes import line_hash, to_signed, to_unsigned


@given(st.integers(0, (1 << 64) - 1))
def test_a_hash_fits_into_a_signed_integer_and_comes_back(digest):
    assert -(1 << 63) <= to_signed(digest) < 1 << 63
    assert to_unsigned(to_signed(digest)) == digest


def test_the_hash_of_a_line_is_what_stores_hold():
    assert line_hash(b"") == 0x2D06800538D394C2
    assert line_hash(b"p") == to_signed(to_unsigned(line_hash(b"p")))
