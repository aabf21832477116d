import pytest

from helios_core.errors import InvalidParameter
from helios_core.fhir.dates import date_bounds
from helios_core.fhir.instants import format_instant


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("2026", "2026-01-01T00:00:00.000000Z", "2026-12-31T23:59:59.999999Z"),
        ("2026-02", "2026-02-01T00:00:00.000000Z", "2026-02-28T23:59:59.999999Z"),
        ("2024-12", "2024-12-01T00:00:00.000000Z", "2024-12-31T23:59:59.999999Z"),
        ("2024-02-29", "2024-02-29T00:00:00.000000Z", "2024-02-29T23:59:59.999999Z"),
        ("2026-11-22T19:46", "2026-11-22T19:46:00.000000Z", "2026-11-22T19:46:59.999999Z"),
        ("2026-11-22T19:46+02:00", "2026-11-22T17:46:00.000000Z", "2026-11-22T17:46:59.999999Z"),
        ("2026-11-22T19:46:11", "2026-11-22T19:46:11.000000Z", "2026-11-22T19:46:11.999999Z"),
        ("2026-11-22T19:46:11Z", "2026-11-22T19:46:11.000000Z", "2026-11-22T19:46:11.999999Z"),
        (
            "2026-11-22T19:46:11.123-05:00",
            "2026-11-23T00:46:11.123000Z",
            "2026-11-23T00:46:11.123999Z",
        ),
        ("2026-11-22T19:46:11.123456Z", *["2026-11-22T19:46:11.123456Z"] * 2),
    ],
)
def test_a_date_covers_all_of_its_precision(text, low, high):
    assert tuple(map(format_instant, date_bounds(text))) == (low, high)


@pytest.mark.parametrize(
    "text", ["", "26", "2026-13", "2026-02-30", "noon", "2026-11-22T25:00:00Z"]
)
def test_what_is_no_date_is_refused(text):
    with pytest.raises(InvalidParameter):
        date_bounds(text)
