"""Every exception of both drivers is one that the store turns into its own."""

import botocore.exceptions
import obstore.exceptions
import pytest

from helios_core import BackendUnavailable
from helios_s3.errors import FAILURES, unavailable

EVERY = sorted(
    {
        c
        for module in (obstore.exceptions, botocore.exceptions)
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Exception)
    },
    key=lambda c: f"{c.__module__}.{c.__name__}",
)


@pytest.mark.parametrize("error_class", EVERY, ids=lambda c: c.__name__)
def test_no_error_of_a_driver_passes_as_it_is(error_class):
    assert issubclass(error_class, (*FAILURES, Warning))
    error = error_class.__new__(error_class)
    error.response = {}

    assert isinstance(unavailable(error), BackendUnavailable)
