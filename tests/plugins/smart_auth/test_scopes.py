import pytest

from helios_core import parse_scope
from helios_smart_auth.scopes import granted

CASES = [
    ("system/*.read", "system/*.rs", "system/*.read"),
    ("system/*.rs", "system/*.read", "system/*.rs"),
    ("system/*.rs", "system/*.cruds", "system/*.rs"),
    ("system/*.cruds", "system/*.rs", "system/*.rs"),
    ("system/*.*", "system/*.read", "system/*.rs"),
    ("system/*.write", "system/*.rs", ""),
    ("system/*.rs", "system/Patient.rs system/Group.rs", "system/Patient.rs system/Group.rs"),
    ("system/Patient.rs", "system/*.rs", "system/Patient.rs"),
    ("system/Patient.rs", "system/Patient.r", "system/Patient.r"),
    (
        "system/Patient.rs",
        "system/Patient.r system/Patient.s",
        "system/Patient.r system/Patient.s",
    ),
    ("system/Patient.rs system/Patient.rs", "system/*.rs", "system/Patient.rs"),
    ("system/Patient.rs", "system/Observation.rs", ""),
    ("system/Patient.rs openid user/*.rs", "system/*.cruds", "system/Patient.rs"),
    ("system/Patient.rs  system/Group.r", "system/*.rs", "system/Patient.rs system/Group.r"),
    ("system/*.rs", "system/Observation.rs?code=a", "system/Observation.rs?code=a"),
    ("system/Observation.rs?code=a", "system/*.rs", "system/Observation.rs?code=a"),
    (
        "system/Observation.rs?code=a",
        "system/Observation.rs?code=a",
        "system/Observation.rs?code=a",
    ),
    (
        "system/Observation.rs?code=a",
        "system/Observation.rs?status=final",
        "system/Observation.rs?code=a&status=final",
    ),
    (
        "system/Observation.rs?code=a&status=final",
        "system/Observation.rs?code=a",
        "system/Observation.rs?code=a&status=final",
    ),
    ("system/*.rs", "system/*.rs system/Patient.rs", "system/*.rs"),
    ("system/Patient.cruds", "system/*.rs system/Patient.u", "system/Patient.rs system/Patient.u"),
    ("system/Patient.rs", "user/*.rs", ""),
    ("", "system/*.rs", ""),
]


@pytest.mark.parametrize(("requested", "registered", "expected"), CASES)
def test_what_is_granted_is_requested_and_registered(requested, registered, expected):
    """SM-18, TR-79."""
    assert " ".join(granted(requested, registered.split(" "))) == expected


@pytest.mark.parametrize(("requested", "registered", "expected"), CASES)
def test_what_is_granted_means_something(requested, registered, expected):
    assert all(parse_scope(word) for word in granted(requested, registered.split(" ")))
