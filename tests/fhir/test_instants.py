from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.errors import InvalidParameter
from helios_core.fhir.instants import (
    format_instant,
    from_stamp,
    parse_instant,
    parse_stamp,
    to_stamp,
)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-22T19:46:11Z", "2026-11-22T19:46:11.000000Z"),
        ("2026-11-22T19:46:11.1Z", "2026-11-22T19:46:11.100000Z"),
        ("2026-11-22T19:46:11.123456Z", "2026-11-22T19:46:11.123456Z"),
        ("2026-11-22T19:46:11+02:00", "2026-11-22T17:46:11.000000Z"),
        ("2026-11-22T19:46:11-05:30", "2026-11-23T01:16:11.000000Z"),
        ("2026-11-22T19:46:11 02:00", "2026-11-22T17:46:11.000000Z"),
        ("2026-11-22T19:46:11-00:00", "2026-11-22T19:46:11.000000Z"),
        ("2026-11-22T19:46:11+14:00", "2026-11-22T05:46:11.000000Z"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00.000000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000000Z"),
        ("2016-12-31T23:59:60.5Z", "2017-01-01T00:00:00.000000Z"),
    ],
)
def test_an_instant_is_read_into_utc(text, instant):
    assert format_instant(parse_instant(text)) == instant


@pytest.mark.parametrize(
    ("text", "nearest", "beyond"),
    [
        ("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", -50_400_000_000),
        ("0001-01-01T00:00:00+00:01", "0001-01-01T00:00:00Z", -60_000_000),
        (
            "9999-12-31T23:59:59-05:00",
            "9999-12-31T23:59:59.999999Z",
            18_000_000_000 - 999_999,
        ),
        ("9999-12-31T23:59:60Z", "9999-12-31T23:59:59.999999Z", 1),
    ],
)
def test_an_instant_may_be_outside_of_the_years_of_datetime(text, nearest, beyond):
    assert parse_instant(text) == parse_instant(nearest)
    assert parse_stamp(text) == parse_stamp(nearest) + beyond
    assert from_stamp(parse_stamp(text)) == parse_instant(nearest)
    assert to_stamp(parse_instant(nearest)) == parse_stamp(nearest)


def test_rounding_up_the_last_microsecond_leaves_the_last_year():
    text = "9999-12-31T23:59:59.9999999Z"

    assert parse_stamp(text, round_up=True) == parse_stamp(text) + 1
    assert parse_instant(text, round_up=True) == parse_instant(text)


@pytest.mark.parametrize(
    ("digits", "floor", "ceiling"),
    [
        ("123456", 123456, 123456),
        ("1234567", 123456, 123457),
        ("1234560", 123456, 123456),
        ("123456000000001", 123456, 123457),
        ("9999999", 999999, 1000000),
    ],
)
def test_digits_beyond_microseconds_are_dropped_or_rounded_up(digits, floor, ceiling):
    text = f"2026-11-22T19:46:11.{digits}Z"
    second = datetime(2026, 11, 22, 19, 46, 11, tzinfo=UTC)

    assert parse_instant(text) == second + timedelta(microseconds=floor)
    assert parse_instant(text, round_up=True) == second + timedelta(microseconds=ceiling)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026",
        "2026-11",
        "2026-11-22",
        "2026-11-22T19:46Z",
        "2026-11-22T19:46:11",
        "2026-11-22T19:46:11.Z",
        "2026-11-22 19:46:11Z",
        "2026-11-22T19:46:11z",
        "2026-11-22T19:46:11+0200",
        "2026-11-22T19:46:11,5Z",
        "2026-13-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-04-31T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "2026-11-22T24:00:00Z",
        "2026-11-22T19:60:00Z",
        "2026-11-22T19:46:61Z",
        "2026-11-22T19:46:11+14:01",
        "2026-11-22T19:46:11+02:60",
        "9999-12-31T24:00:00Z",
        " 2026-11-22T19:46:11Z",
        "2026-11-22T19:46:11Z\n",
        "٢٠٢٦-11-22T19:46:11Z",
        "eq2026-11-22T19:46:11Z",
    ],
)
def test_anything_else_is_refused_with_an_example_and_without_an_echo(text):
    with pytest.raises(InvalidParameter, match="such as 2026-11-22T19:46:11Z") as caught:
        parse_instant(text)

    assert not text.strip() or text.strip() not in str(caught.value).replace(
        "2026-11-22T19:46:11Z", ""
    )


@given(
    st.datetimes(
        min_value=datetime(2, 1, 1),  # noqa: DTZ001 - hypothesis wants naive bounds
        max_value=datetime(9998, 1, 1),  # noqa: DTZ001 - hypothesis wants naive bounds
        timezones=st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
    )
)
def test_what_is_written_reads_back_the_same(instant):
    assert parse_instant(format_instant(instant)) == instant
    assert parse_instant(instant.isoformat()) == instant
