"""The issues that a server reports about an export in its files of OperationOutcomes."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from helios_core.client.downloads import DAMAGED, open_plain
from helios_core.client.errors import OutcomeIssue, read_issues

MAX_ISSUES = 20
"""How many losses and how many notes are kept; the others are only counted."""

_LINE_BYTES = 1024 * 1024


class ReportedIssue(msgspec.Struct, frozen=True, kw_only=True):
    """One issue, and the line that reports it."""

    file: str
    line: int
    severity: str
    code: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.severity}: {self.text}"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a server reports about one export."""

    losses: tuple[ReportedIssue, ...] = ()
    """The first issues that report that something is missing or was not done."""
    loss_count: int = 0
    notes: tuple[ReportedIssue, ...] = ()
    """The first issues that are information only."""
    note_count: int = 0


def read_report(files: Iterable[Path]) -> Report:
    """Return the issues in files of OperationOutcomes; any other line counts as a loss."""
    losses, notes = list[ReportedIssue](), list[ReportedIssue]()
    counts = {True: 0, False: 0}
    for path in files:
        for number, issue in _issues(path):
            counts[issue.is_loss] += 1
            kept = losses if issue.is_loss else notes
            if len(kept) < MAX_ISSUES:
                kept.append(
                    ReportedIssue(
                        file=path.name,
                        line=number,
                        severity=issue.severity or "error",
                        code=issue.code,
                        text=str(issue),
                    )
                )
    return Report(
        losses=tuple(losses),
        loss_count=counts[True],
        notes=tuple(notes),
        note_count=counts[False],
    )


def _issues(path: Path) -> Iterable[tuple[int, OutcomeIssue]]:
    number = 0
    try:
        with open_plain(path) as file:
            while line := file.readline(_LINE_BYTES):
                number += 1
                if line.strip():
                    yield from ((number, issue) for issue in _read(line))
    except DAMAGED as error:
        text = f"the rest of the file cannot be read ({type(error).__name__})"
        yield number + 1, OutcomeIssue(severity="error", diagnostics=text)


def _read(line: bytes) -> list[OutcomeIssue]:
    try:
        return read_issues(line)
    except msgspec.DecodeError:
        return [OutcomeIssue(severity="error", diagnostics="this line is not an OperationOutcome")]
