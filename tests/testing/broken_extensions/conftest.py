import pytest

from helios_core.testing.extensions import health_checks, observers, routes


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    """What waits for what never comes has waited long enough after a moment."""
    for suite in (health_checks, observers, routes):
        monkeypatch.setattr(suite, "PATIENCE_SECONDS", 0.5)
