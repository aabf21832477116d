"""Instants and durations by the clock of the server (J7)."""

from datetime import UTC, datetime, timedelta

from bson.int64 import Int64

from helios_mongodb.databases import Document

AT_ONCE = datetime(2000, 1, 1, tzinfo=UTC)
"""An instant that is over."""


def milliseconds(duration: timedelta) -> Int64:
    """Return a duration as MongoDB adds it to an instant."""
    return Int64(duration // timedelta(milliseconds=1))


def from_now(duration: timedelta) -> Document:
    """Return the expression of the instant at which a duration from now is over."""
    return {"$add": ["$$NOW", milliseconds(duration)]}


def is_over(field: str, now: datetime) -> Document:
    """
    Return the condition that the instant in a field is over.

    If more of a wait is left than there is of it, the clock was set back.
    """
    beyond = {"$expr": {"$gt": [f"${field}", _latest(now)]}}
    return {field: {"$ne": None}, "$or": [{field: {"$lte": now}}, beyond]}


def lasts(field: str, now: datetime) -> Document:
    """Return the condition that the instant in a field is yet to come."""
    return {field: {"$gt": now}, "$expr": {"$lte": [f"${field}", _latest(now)]}}


def _latest(now: datetime) -> Document:
    return {"$add": [now, {"$multiply": ["$wait", 1.5]}]}
