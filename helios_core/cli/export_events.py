"""The events that `helios export --json` prints, one per line; see `docs/reference/cli.md`."""

from typing import Literal

import msgspec


class Event(msgspec.Struct, kw_only=True, frozen=True, tag_field="event", tag=str.lower):
    """An event, printed as one line of JSON."""


class Accepted(Event, frozen=True, kw_only=True):
    """The server has accepted the export, or an earlier one is resumed."""

    status_url: str
    folder: str


class Progress(Event, frozen=True, kw_only=True):
    """The progress of the export; at most one per second and phase."""

    phase: str
    percent: float | None
    message: str
    files_done: int
    files_total: int
    resources_done: int
    resources_total: int
    bytes_received: int


class File(Event, frozen=True, kw_only=True):
    """One downloaded file."""

    list: str
    type: str
    path: str
    lines: int
    bytes: int


class Proof(Event, frozen=True, kw_only=True):
    """The totals of the files of one list and type, compared with the proof of completeness."""

    list: str
    type: str
    resources: int
    bytes: int
    verdict: str
    reason: str


class Issue(Event, frozen=True, kw_only=True):
    """Something that the server reports in a file of OperationOutcomes."""

    severity: str
    code: str
    text: str
    file: str
    line: int


class End(Event, frozen=True, kw_only=True):
    """The last event."""

    result: Literal["complete", "incomplete", "failed", "interrupted"]
    exit_code: int
    problems: tuple[str, ...]
    """One text per problem; empty if the export is complete."""
    resume: str | None
    """The folder to pass to `--resume`, or null if there is nothing to resume."""
    transaction_time: str | None = None
    resources: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    deleted: bool | None = None
    """Whether the server has deleted the export."""


EVENTS: tuple[type[Event], ...] = (Accepted, Progress, File, Proof, Issue, End)
