"""FHIR R4, 3.1.1.4.5 and 3.1.1.4.7; conformance rows RV-53 and the page's own table."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.errors import InvalidParameter, UnsupportedParameter
from helios_core.fhir.dates import date_bounds
from helios_core.fhir.instants import to_stamp
from helios_core.fhir.search.dates import interval

PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
FROM_21_JANUARY = {"start": "2013-01-21"}
UNTIL_21_JANUARY = {"end": "2013-01-21"}
FROM_15_MARCH = {"start": "2013-03-15"}


def observed(effective):
    suffix = "DateTime" if isinstance(effective, str) else "Period"
    return {"resourceType": "Observation", f"effective{suffix}": effective}


@pytest.mark.parametrize(
    ("query", "effective", "matches"),
    [
        ("eq2013-01-14", "2013-01-14T00:00:00Z", True),
        ("eq2013-01-14", "2013-01-14T10:00:00Z", True),
        ("eq2013-01-14", "2013-01-15T00:00:00Z", False),
        ("ne2013-01-14", "2013-01-15T00:00:00Z", True),
        ("ne2013-01-14", "2013-01-14T00:00:00Z", False),
        ("ne2013-01-14", "2013-01-14T10:00:00Z", False),
        ("lt2013-01-14T10:00", "2013-01-14", True),
        ("gt2013-01-14T10:00", "2013-01-14", True),
        ("ge2013-03-14", FROM_21_JANUARY, True),
        ("le2013-03-14", FROM_21_JANUARY, True),
        ("sa2013-03-14", FROM_15_MARCH, True),
        ("sa2013-03-14", FROM_21_JANUARY, False),
        ("sa2013-03-14", UNTIL_21_JANUARY, False),
        ("eb2013-03-14", FROM_15_MARCH, False),
        ("eb2013-03-14", FROM_21_JANUARY, False),
        ("eb2013-03-14", UNTIL_21_JANUARY, True),
        ("ap2013-03-14", "2013-03-14", True),
        ("ap2013-03-14", "2013-01-21", False),
        ("ap2013-03-14", "2015-06-15", False),
    ],
)
def test_the_specifications_own_table_holds(match, query, effective, matches):
    assert match(observed(effective), f"date={query}") is matches


@pytest.mark.parametrize(
    ("birth_date", "true_for"),
    [
        ("1971-04-05", "eq le ge ap"),
        ("1971", "eq le ge ap"),
        ("1970-12-31", "ne lt le eb"),
        ("1972", "ne gt ge sa"),
    ],
)
def test_RV_53_a_contained_date_is_neither_after_nor_before_its_year(match, birth_date, true_for):  # noqa: N802 - the row's id
    """RV-53"""
    patient = {"resourceType": "Patient", "birthDate": birth_date}

    found = {prefix for prefix in PREFIXES if match(patient, f"birthdate={prefix}1971")}

    assert found - {"ap"} == {*true_for.split()} - {"ap"}


@pytest.mark.parametrize("query", ["gt1971", "gt1971-04", "sa1971", "sa1971-04"])
def test_RV_53_what_a_reference_server_gets_wrong(match, query):  # noqa: N802 - the row's id
    """RV-53"""
    patient = {"resourceType": "Patient", "birthDate": "1971-04-05"}

    assert not match(patient, f"birthdate={query}")


@pytest.mark.parametrize(
    ("effective", "true_for"),
    [
        ({"start": "2012-06", "end": "2014-06"}, "ne gt lt ge le ap"),
        ({"start": "2013-02", "end": "2013-03"}, "eq ge le ap"),
        ({"start": "2012-02", "end": "2013-03"}, "ne lt le ap"),
        ({"start": "2013-02", "end": "2014-03"}, "ne gt ge ap"),
        ({"start": "2013"}, "ne gt ge ap"),
        ({"end": "2013"}, "ne lt le ap"),
        ({"start": "2014"}, "ne gt ge sa"),
        ({"end": "2012"}, "ne lt le eb"),
        ({"start": "2012"}, "ne gt lt ge le ap"),
        ({"end": "2013-12-31"}, "ne lt le ap"),
        ({"end": "2013-12-31T23:59:59Z"}, "ne lt le ap"),
    ],
)
def test_periods_are_compared_by_both_ends(match, effective, true_for):
    found = {prefix for prefix in PREFIXES if match(observed(effective), f"date={prefix}2013")}

    # `ap` reaches beyond the year, as far as a tenth of the way to now.
    assert found - {"ap"} == {*true_for.split()} - {"ap"}
    assert "ap" in found or "ap" not in true_for


@pytest.mark.parametrize(
    ("timing", "query", "matches"),
    [
        ({"repeat": {"boundsPeriod": {"start": "2013-01-31", "end": "2013-03-24"}}},
         "ge2013-02-01", True),
        ({"repeat": {"boundsPeriod": {"start": "2013-01-31", "end": "2013-03-24"}}},
         "gt2013-03-24", False),
        ({"event": ["2013-01-01", "2013-12-31"]}, "eq2013", True),
        ({"event": ["2013-01-01", "2013-12-31"]}, "eq2013-01", False),
        ({"event": ["2012-01-01"], "repeat": {"boundsPeriod": {"end": "2013"}}}, "lt2011", True),
        ({"repeat": {"frequency": 2}}, "ne2013", False),
        ({"repeat": {"boundsDuration": {"value": 3}}}, "ge1900", False),
    ],
)  # fmt: skip
def test_of_a_timing_only_the_outer_limits_count(match, timing, query, matches):
    request = {"resourceType": "ServiceRequest", "occurrenceTiming": timing}

    assert match(request, f"occurrence={query}") is matches


@pytest.mark.parametrize(
    ("query", "stamp", "matches"),
    [
        ("eq2026-11-22T19:46:11Z", "2026-11-22T19:46:11.123456Z", True),
        ("eq2026-11-22T19:46:11.123456Z", "2026-11-22T19:46:11.123456Z", True),
        ("eq2026-11-22T19:46:11.123455Z", "2026-11-22T19:46:11.123456Z", False),
        ("gt2026-11-22T19:46:11.123455Z", "2026-11-22T19:46:11.123456Z", True),
        ("gt2026-11-22T19:46:11.123456Z", "2026-11-22T19:46:11.123456Z", False),
        ("ge2026-11-22T20:46:11.123456+01:00", "2026-11-22T19:46:11.123456Z", True),
        ("lt2026-11-22T20:46:11.123456+01:00", "2026-11-22T19:46:11.123456Z", False),
        ("ge2026-11-22T20:46:11 01:00", "2026-11-22T19:46:11.123456Z", True),
        ("eq2026-11-22T19:46", "2026-11-22T19:46:11.123456Z", True),
        ("eq2026-11", "2026-11-22T19:46:11.123456Z", True),
    ],
)
def test_last_updated_is_compared_to_the_microsecond(match, query, stamp, matches):
    resource = {"resourceType": "Patient", "meta": {"lastUpdated": stamp}}

    assert match(resource, f"_lastUpdated={query}") is matches


def test_any_of_several_values_will_do_and_all_of_several_parameters_must(match):
    observation = observed("2011-06-01")

    assert match(observation, "date=2010,2011")
    assert match(observation, "date=ge2010-01-01", "date=le2011-12-31")
    assert not match(observation, "date=ge2010-01-01", "date=le2010-12-31")


@pytest.mark.parametrize("value", ["", "x2013", "2013-13", "2013-1", "ge", "2013-01-01T10", "nan"])
def test_what_is_no_date_is_refused(match, value):
    with pytest.raises(InvalidParameter, match="date"):
        match(observed("2013"), f"date={value}")


def test_modifiers_other_than_missing_are_refused(match):
    with pytest.raises(UnsupportedParameter, match="supported modifiers are: missing"):
        match(observed("2013"), "date:exact=2013")


@pytest.mark.parametrize(
    "effective",
    ["", "yesterday", "2013-13-01", "2013-02-30T10:00:00Z", {"start": "x"}, {}, 2013,
     {"start": "2014", "end": "2013"}],
)  # fmt: skip
def test_a_date_that_cannot_be_read_matches_nothing(match, effective):
    resource = observed(effective if isinstance(effective, str | dict) else "x")

    assert not any(match(resource, f"date={prefix}2013") for prefix in PREFIXES)


@pytest.mark.parametrize(
    "text",
    ["2013", "2013-02", "2013-02-28", "2013-02-28T10:11Z", "2013-02-28T10:11:12Z",
     "2013-02-28T10:11:12.1Z", "2013-02-28T10:11:12.1234567+05:30", "2013-02-28T10:11:12",
     "2013-02-28T10:11:60Z", "0001-01-01", "9998-12-31T23:59:59.999999-14:00",
     "9999-12-31", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999-14:00", "9999-12-31T23:59:60Z",
     "0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00.1+14:00"],
)  # fmt: skip
def test_the_quick_reader_reads_what_the_exact_one_reads(text):
    assert interval(text) == date_bounds(text)


@given(
    st.datetimes(min_value=datetime(1583, 1, 1), max_value=datetime(9998, 1, 1)),  # noqa: DTZ001 - hypothesis adds the zone
    st.integers(0, 9),
    st.integers(-14 * 60, 14 * 60),
)
def test_every_instant_is_read_alike_by_both_readers(instant, digits, offset):
    fraction = f".{instant.microsecond:06}000"[: digits + 1] if digits else ""
    sign = "-" if offset < 0 else "+"
    zone = f"{sign}{abs(offset) // 60:02}:{abs(offset) % 60:02}" if offset else "Z"
    text = f"{instant:%Y-%m-%dT%H:%M:%S}".zfill(19) + fraction + zone

    assert interval(text) == date_bounds(text)


LAST_DAY = "9999-12-31"


@pytest.mark.parametrize(
    ("query", "true_for"),
    [
        ("9999-12-31", "eq ge le ap"),
        ("9999-12", "eq ge le ap"),
        ("9999", "eq ge le ap"),
        ("9999-12-31T00:00", "ne gt ge ap"),
        ("9999-12-31T23:59", "ne lt le ap"),
        ("9999-12-31T23:59:59Z", "ne lt le ap"),
        ("9999-12-31T23:59:59.9999999Z", "ne lt le ap"),
        ("9999-12-31T23:59:59-14:00", "ne lt le eb ap"),
        ("9999-12-31T23:59:60Z", "ne lt le eb ap"),
        ("0001-01-01T00:00:00+14:00", "ne gt ge sa"),
        ("0001", "ne gt ge sa"),
    ],
)
def test_every_prefix_takes_the_ends_of_time(match, query, true_for):
    true = {prefix for prefix in PREFIXES if match(observed(LAST_DAY), f"date={prefix}{query}")}

    assert true - {"ap"} == {*true_for.split()} - {"ap"}
    assert ("ap" in true) is ("ap" in true_for)


@pytest.mark.parametrize(
    "end", ["9999-12-31", "9999", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-05:00"]
)
def test_a_period_until_the_end_of_time_covers_today(match, end):
    assert match(observed({"start": "2020", "end": end}), "date=ap2026-11-22")
    assert match(observed({"start": "2020", "end": end}), "date=ge9999-12-30")


@pytest.mark.parametrize(
    "value", ["0000", "9999-12-32", "9999-12-31T24:00:00Z", "2026-11-22T10:60"]
)
def test_no_such_date_is_refused_in_words(match, value):
    with pytest.raises(InvalidParameter, match="date"):
        match(observed("2013"), f"date={value}")


def test_microseconds_count_from_1970():
    assert to_stamp(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=1)) == 1_000_000
    assert to_stamp(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)) == -1_000_000
