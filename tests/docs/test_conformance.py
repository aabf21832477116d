"""The conformance page says what is expected and what proves it."""

from pathlib import Path

import pytest

from tests import conformance

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def test_every_row_has_a_test_or_a_reason_and_not_both():
    expected, proven = conformance.expectations(), set(conformance.proofs())

    assert set(expected.rows) - proven - set(expected.reasons) == set()
    assert proven & set(expected.reasons) == set()


def test_tests_and_reasons_name_rows_that_exist():
    expected, proven = conformance.expectations(), set(conformance.proofs())

    assert (proven | set(expected.reasons)) - set(expected.rows) == set()


@pytest.mark.parametrize(
    "heading",
    [
        *("Kick-off", "Parameters", "Provenance", "Organized output", "Files", "Groups"),
        *(
            "Referenced context",
            "Attachments",
            "Compartments",
            "Members who joined after `_since`",
        ),
    ],
)
def test_what_the_guide_leaves_open_is_documented(heading):
    """B2-CAP-03, B2-P-06, B2-P-15, B3-15"""
    text = (REFERENCE / "http.md").read_text(encoding="utf-8")

    assert f"# {heading}\n" in text
