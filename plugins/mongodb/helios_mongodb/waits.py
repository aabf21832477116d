"""Instants and durations by the clock of the server (J7)."""

from datetime import UTC, datetime, timedelta

from bson.int64 import Int64

from helios_mongodb.databases import Document

AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)
"""An instant that is over."""


def milliseconds(duration: timedelta) -> Int64:
    """Return a duration as MongoDB adds it to an instant."""
    return Int64(duration // timedelta(milliseconds=1))


def from_now(duration: timedelta) -> Document:
    """Return the expression of the instant at which a duration from now is over."""
    return {"$add": ["$$NOW", milliseconds(duration)]}


def ago(duration: timedelta) -> Document:
    """Return the expression of the instant a duration before now."""
    return {"$subtract": ["$$NOW", milliseconds(duration)]}


def is_over(field: str) -> Document:
    """
    Return the condition that the instant in a field is over.

    If more of a wait is left than there is of it, the clock was set back.
    """
    latest = {"$add": ["$$NOW", {"$multiply": ["$wait", 1.5]}]}
    over = {"$or": [{"$lte": [f"${field}", "$$NOW"]}, {"$gt": [f"${field}", latest]}]}
    # Nothing at all would be earlier than every instant.
    return {field: {"$ne": None}, "$expr": over}


def lasts(field: str) -> Document:
    """Return the condition that the instant in a field is yet to come."""
    latest = {"$add": ["$$NOW", {"$multiply": ["$wait", 1.5]}]}
    return {"$expr": {"$and": [{"$gt": [f"${field}", "$$NOW"]}, {"$lte": [f"${field}", latest]}]}}
