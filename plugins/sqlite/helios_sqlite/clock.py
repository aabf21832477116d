"""Stamps: instants in microseconds since 1970 that never decrease."""

import sqlite3
import time

from helios_core import read_statements
from helios_sqlite.errors import only_value

_SQL = read_statements("helios_sqlite", "clock")


def next_stamp(connection: sqlite3.Connection) -> int:
    """Return a stamp later than any before; the caller must hold the write lock."""
    return max(_wall(), _last(connection) + 1)


def settled_stamp(connection: sqlite3.Connection) -> int:
    """Return a stamp of about now; once it is committed, every later write exceeds it (P1)."""
    stamp = max(_wall(), _last(connection))
    remember(connection, stamp)
    return stamp


def remember(connection: sqlite3.Connection, stamp: int) -> None:
    """Store the last stamp."""
    connection.execute(_SQL["remember"], (stamp,))


def _last(connection: sqlite3.Connection) -> int:
    last: int = only_value(connection.execute(_SQL["last_stamp"]).fetchall(), "clock")
    return last


def _wall() -> int:
    return time.time_ns() // 1000
