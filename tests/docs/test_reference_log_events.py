"""The reference of log events lists what the sources log, no more and no less."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs/reference/log-events.md"
SOURCES = [*ROOT.glob("helios_core/**/*.py"), *ROOT.glob("plugins/*/helios_*/**/*.py")]
LOGGERS = {"log", "_log", "get_logger"}
METHODS = {"debug", "info", "warning", "error", "exception", "critical"}
LEVELS = {"exception": "error"}
ADDED = {"exc_info"}
"""What a log call may say beside the fields of its line."""


def logger_of(call):
    receiver = call.func.value
    receiver = receiver.func if isinstance(receiver, ast.Call) else receiver
    return getattr(receiver, "id", getattr(receiver, "attr", ""))


@cache
def log_calls():
    """Every call that logs, of every source file."""
    return list(_log_calls())


def _log_calls():
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in METHODS and logger_of(node) in LOGGERS:
                yield node


def events_of(call):
    """The events that a call may log: one literal, or one of two."""
    event = call.args[0]
    return [event.body, event.orelse] if isinstance(event, ast.IfExp) else [event]


def logged():
    """The level and the fields of each event, by name."""
    found = {}
    for call in log_calls():
        for event in events_of(call):
            level, fields = found.setdefault(event.value, (set(), set()))
            level.add(LEVELS.get(call.func.attr, call.func.attr))
            fields |= {keyword.arg for keyword in call.keywords if keyword.arg}
    return found


def listed():
    """The level and the fields of each event, by name, as the reference has them."""
    rows = re.findall(
        r"^\| `([a-z_]+\.[a-z_]+)` \| (\w+) \|([^|]*)\|", REFERENCE.read_text(), re.MULTILINE
    )
    return {name: ({level}, set(re.findall(r"`(\w+)`", fields))) for name, level, fields in rows}


def test_every_event_is_a_literal_of_noun_and_verb():
    events = [event for call in log_calls() for event in events_of(call)]

    assert events
    assert all(isinstance(event, ast.Constant) for event in events)
    assert all(re.fullmatch(r"[a-z]+\.[a-z_]+", event.value) for event in events)


def test_the_reference_lists_every_event_and_no_other():
    assert sorted(listed()) == sorted(logged())


def test_the_reference_tells_the_level_of_every_event():
    assert {name: level for name, (level, _) in listed().items()} == {
        name: level for name, (level, _) in logged().items()
    }


def test_the_reference_tells_the_fields_of_every_event():
    given = {name: fields - ADDED for name, (_, fields) in logged().items()}
    given["request.answered"] |= {"status", "complete"}  # these two come as a mapping

    assert {name: sorted(fields) for name, (_, fields) in listed().items()} == {
        name: sorted(fields) for name, fields in given.items()
    }


def test_no_field_hides_what_every_line_has():
    assert all(
        fields.isdisjoint({"event", "level", "timestamp"}) for _, fields in logged().values()
    )
