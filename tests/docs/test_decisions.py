"""Decision records have numbers that follow each other, and the same parts."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs/decisions"
RECORDS = sorted(FOLDER.iterdir())
SECTIONS = ["Context", "Decision", "Alternatives", "Consequences"]


def test_records_are_numbered_without_gaps_and_named_after_what_they_say():
    names = [record.name for record in RECORDS]

    assert all(re.fullmatch(r"\d{4}(-[a-z0-9]+)+\.md", name) for name in names)
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_record_says_when_why_and_what_else_there_was(record):
    text = record.read_text(encoding="utf-8")

    assert re.match(rf"# {int(record.name[:4])}\. \S", text)
    assert re.search(r"^Status: (accepted|superseded by \d{4})$", text, re.MULTILINE)
    assert re.search(r"^Date: \d{4}-\d{2}-\d{2}$", text, re.MULTILINE)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
