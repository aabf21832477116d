import logging

import pytest
import structlog


@pytest.fixture(autouse=True)
def logging_of_its_own():
    """Undo what a command run inside of a test sets up for its whole process."""
    before = logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.setLevel(before)
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler:
            logging.root.removeHandler(handler)
