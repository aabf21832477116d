"""Instants and durations by the clock of the server (J7)."""

from datetime import UTC, datetime, timedelta
from typing import Any

from bson.int64 import Int64
from pymongo import AsyncMongoClient

IN_THE_PAST = datetime(2000, 1, 1, tzinfo=UTC)
"""Any instant in the past."""


async def time_of(client: AsyncMongoClient[dict[str, Any]]) -> datetime:
    """Return the time of the primary."""
    hello = await client.admin.command("hello")
    local_time: datetime = hello["localTime"]
    return local_time.replace(tzinfo=UTC)


def milliseconds(duration: timedelta) -> Int64:
    """Return a duration in milliseconds, as MongoDB adds it to an instant."""
    return Int64(duration // timedelta(milliseconds=1))


def from_now(duration: timedelta) -> dict[str, Any]:
    """Return the expression of the instant that is a duration from now."""
    return {"$add": ["$$NOW", milliseconds(duration)]}


def is_over(field: str, now: datetime) -> dict[str, Any]:
    """
    Return the condition that the instant in a field has passed.

    An instant that is further away than 1.5 times its wait counts as passed: the clock was set
    back.
    """
    beyond = {"$expr": {"$gt": [f"${field}", _latest(now)]}}
    return {field: {"$ne": None}, "$or": [{field: {"$lte": now}}, beyond]}


def lasts(field: str, now: datetime) -> dict[str, Any]:
    """Return the condition that the instant in a field is still to come."""
    return {field: {"$gt": now}, "$expr": {"$lte": [f"${field}", _latest(now)]}}


def _latest(now: datetime) -> dict[str, Any]:
    return {"$add": [now, {"$multiply": ["$wait", 1.5]}]}
