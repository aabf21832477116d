"""RFC 9110 sections 13 (conditional requests) and 14 (range requests), case by case."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.http.ranges import (
    RangeNotSatisfiable,
    if_range_holds,
    is_not_modified,
    parse_range,
    precondition_fails,
)

SIZE = 1000
CHANGED = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)
HEADERS = st.text("bytes=,-0123456789 \t\"W/*;aé'", max_size=40) | st.text(max_size=20)


def bounds(header, size=SIZE):
    requested = parse_range(header, size)
    return requested and (requested.start, requested.end)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-499", (0, 500)),
        ("bytes=500-999", (500, 1000)),
        ("bytes=-500", (500, 1000)),
        ("bytes=500-", (500, 1000)),
        ("bytes=0-0", (0, 1)),
        ("bytes=-1", (999, 1000)),
        ("bytes=999-999", (999, 1000)),
        ("bytes=007-008", (7, 9)),
    ],
)
def test_the_examples_of_the_rfc_are_those_bytes(header, expected):
    """RFC 9110 §14.1.2"""
    assert bounds(header) == expected


@pytest.mark.parametrize("last", ["1000", "9999", str(2**63 - 1), str(2**64 - 1), "9" * 99])
def test_a_last_position_behind_the_end_means_the_end(last):
    """RFC 9110 §14.1.2"""
    assert bounds(f"bytes=0-{last}") == (0, SIZE)
    assert bounds(f"bytes=-{last}") == (0, SIZE)


@pytest.mark.parametrize(
    "header", ["bytes=1000-", "bytes=1000-1000", f"bytes={2**64}-", "bytes=-0"]
)
def test_a_range_without_any_byte_is_not_satisfiable(header):
    """RFC 9110 §14.1.2 and §15.5.17"""
    with pytest.raises(RangeNotSatisfiable):
        parse_range(header, SIZE)


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1"])
def test_nothing_of_an_empty_representation_is_satisfiable(header):
    """RFC 9110 §14.1.2"""
    with pytest.raises(RangeNotSatisfiable):
        parse_range(header, 0)


@pytest.mark.parametrize("header", ["BYTES=0-1", "Bytes=0-1"])
def test_the_case_of_the_unit_does_not_count(header):
    """RFC 9110 §14.1"""
    assert bounds(header) == (0, 2)


@pytest.mark.parametrize("header", ["bytes=0-1,", "bytes=,0-1", "bytes= 0-1", "bytes=, ,0-1 , ,"])
def test_empty_elements_of_the_list_do_not_count(header):
    """RFC 9110 §5.6.1.2"""
    assert bounds(header) == (0, 2)


@pytest.mark.parametrize(
    "header",
    [
        "bytes=0-1,5-6",
        "bytes=0-1,1000-",
        "bytes=0-,0-,0-,0-",
        "bytes=" + ",".join(f"{n}-{n}" for n in range(5000)),
    ],
)
def test_several_ranges_are_ignored(header):
    """RFC 9110 §14.2"""
    assert bounds(header) is None


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "bytes", "bytes=", "bytes=-", "bytes=--1", "bytes=0--1", "bytes=9-5", "0-1"),
        *("lines=0-1", "bytes 0-1", "bytes=a-b", "bytes=0x1-0x2", "bytes=+1-2", "bytes=1_0-20"),
        *("bytes=1.0-2", "bytes=0-1;x", "bytes=٣-5", "bytes=²-5", "bytes=0 - 1", "xbytes=0-1"),
        *("bytes=" + "9" * 100_000 + "-", "bytes=0-" + "9" * 100_000, "bytes=" + "-" * 100_000),
    ],
)
def test_a_malformed_range_is_ignored(header):
    """RFC 9110 §14.2"""
    assert bounds(header) is None


@given(HEADERS.map("bytes={}".format) | HEADERS, st.integers(0, 10))
def test_a_range_is_within_the_representation_whatever_is_sent(header, size):
    try:
        requested = bounds(header, size)
    except RangeNotSatisfiable:
        return

    assert requested is None or 0 <= requested[0] < requested[1] <= size


@pytest.mark.parametrize(
    "header",
    [
        *('"a"', 'W/"a"', "*", '"b", "a"', '"b","a"', 'W/"b" , W/"a"', ',, "a" ,,', '"b,c", "a"'),
        *('"b", , "a"', '"",  "a"', '"a", "a"', '"*", "a"'),
    ],
)
@pytest.mark.parametrize("etag", ['"a"', 'W/"a"'])
def test_tags_compare_weakly_for_if_none_match(header, etag):
    """RFC 9110 §8.8.3.2 and §13.1.2"""
    assert is_not_modified([header], etag)


@pytest.mark.parametrize(
    "header",
    [
        *("", '"b"', '""', '"A"', '" a"', '"b,a"', '"x,*,y"', '"*"', '"a', '"b""a"', '"b"; "a"'),
        *('"b" "a"', 'W/W/"a"', 'é"a"', "\xff", '"é"'),
    ],
)
def test_another_tag_is_not_this_one(header):
    """RFC 9110 §13.1.2"""
    assert not is_not_modified([header], '"a"')


def test_all_lines_of_if_none_match_count():
    """RFC 9110 §5.3"""
    assert is_not_modified(['"b"', '"a"'], '"a"')
    assert not is_not_modified([], '"a"')


@given(st.lists(HEADERS, max_size=3), HEADERS)
def test_what_is_no_condition_breaks_nothing(lines, line):
    assert is_not_modified(lines, '"a"') in (True, False)
    assert if_range_holds(line, etag='"a"', last_modified=CHANGED) in (True, False)


def holds(if_range, etag='"a"'):
    return if_range_holds(if_range, etag=etag, last_modified=CHANGED)


@pytest.mark.parametrize(
    "date",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
def test_if_range_takes_all_three_forms_of_a_date(date):
    """RFC 9110 §5.6.7 and §13.1.5"""
    assert holds(date)


def test_if_range_holds_for_the_tag_and_where_it_is_absent():
    """RFC 9110 §13.1.5"""
    assert holds('"a"')
    assert holds(None)


@pytest.mark.parametrize("if_range", ['W/"a"', 'w/"a"', '"b"', "a", '"b", "a"', "*", ""])
def test_tags_compare_strongly_for_if_range(if_range):
    """RFC 9110 §13.1.5"""
    assert not holds(if_range)
    assert not holds(if_range, etag='"W/a"')


@pytest.mark.parametrize("seconds", [-1, 1])
def test_if_range_wants_the_very_same_date(seconds):
    """RFC 9110 §13.1.5"""
    other = CHANGED + timedelta(seconds=seconds)

    assert not holds(other.strftime("%a, %d %b %Y %H:%M:%S GMT"))


@pytest.mark.parametrize(
    "if_range",
    [
        *('"Sun, 06 Nov 1994 08:49:37 GMT"', "yesterday", "0", "Sun, 99 Foo 0000"),
        *("Sun, 06 Nov 99999 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 +9999999999"),
        *("9" * 100_000, "(" * 100_000, "Sun, " * 20_000, f"1 Jan {'9' * 5000} 00:00:00 GMT"),
    ],
)
def test_what_is_no_date_does_not_hold(if_range):
    """RFC 9110 §13.1.5"""
    assert not holds(if_range)


@pytest.mark.parametrize(
    ("if_match", "fails"),
    [
        (['"a"'], False),
        (['"b", "a"'], False),
        (['"b"', '"a"'], False),
        (["*"], False),
        (['"b"'], True),
        (['W/"a"'], True),
        (["a b"], True),
    ],
)
@pytest.mark.parametrize("since", [None, "Sun, 06 Nov 1994 08:49:36 GMT"])
def test_if_match_compares_strongly_and_comes_before_a_date(if_match, fails, since):
    """RFC 9110 §13.1.1, §13.2.2"""
    assert precondition_fails(if_match, since, etag='"a"', last_modified=CHANGED) is fails


def test_a_weak_etag_matches_no_if_match():
    """RFC 9110 §8.8.3.2"""
    assert precondition_fails(['W/"a"'], None, etag='W/"a"', last_modified=CHANGED)


@pytest.mark.parametrize(
    ("since", "fails"),
    [
        (None, False),
        ("Sun, 06 Nov 1994 08:49:37 GMT", False),
        ("Sun, 06 Nov 1994 08:49:38 GMT", False),
        ("Sun, 06 Nov 1994 08:49:36 GMT", True),
        ("yesterday", False),
        ("", False),
    ],
)
def test_if_unmodified_since_fails_for_what_changed_later(since, fails):
    """RFC 9110 §13.1.4"""
    assert precondition_fails([], since, etag='"a"', last_modified=CHANGED) is fails
