"""Limits that grow with what a probe takes."""

import pytest
from hypothesis import settings

from tests import pace


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets, and a machine as slow as it says."""

    class Clock:
        now = 100.0
        slowness = 1.0

    monkeypatch.setattr(pace.time, "monotonic", lambda: Clock.now)
    monkeypatch.setattr(pace, "slowness", lambda: Clock.slowness)
    return Clock


@pytest.mark.parametrize("slowness", [1.0, 20.0])
def test_a_deadline_passes_later_on_a_slow_machine(clock, slowness):
    clock.slowness = slowness
    deadline = pace.Deadline(10)

    clock.now += 9.9
    assert not deadline.has_passed()
    clock.now += pace.MARGIN * slowness * 10 - 10
    assert not deadline.has_passed()
    clock.now += 0.2
    assert deadline.has_passed()


def test_a_probe_takes_its_time():
    assert pace.slowness() >= 1


def test_no_generated_example_has_a_deadline():
    assert settings.default.deadline is None
