"""What is tested by turns: a third of the repetitions in each run, all of them in three days."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar

VARIABLE = "HFS_TEST_TURN"
"""Whose turn it is: the number of a day, the same for all processes of a run, or `all`."""
TURNS = 3

Item = TypeVar("Item")


def today() -> str:
    """Return whose turn it is; by default, that of the day on which the run began."""
    return os.environ.setdefault(VARIABLE, f"{datetime.now(UTC):%j}")


def in_turn(items: Sequence[Item], turn: str) -> Sequence[Item]:
    """Return the items whose turn it is: every third, so that three turns in a row have all."""
    return items if turn == "all" else items[int(turn) % TURNS :: TURNS]
