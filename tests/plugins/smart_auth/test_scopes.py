import pytest

from helios_core import parse_scope
from helios_smart_auth.scopes import LONGEST, granted

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
    (
        "system/*.rs",
        "system/Patient.rs?name=a&active=true system/Patient.rs?active=true&name=a",
        "system/Patient.rs?name=a&active=true",
    ),
    ("system/Patient.cruds", "system/Patient.r system/Patient.rs", "system/Patient.rs"),
    ("system/Patient.cruds", "system/Patient.rs system/Patient.r", "system/Patient.rs"),
]


@pytest.mark.parametrize(("requested", "registered", "expected"), CASES)
def test_what_is_granted_is_requested_and_registered(requested, registered, expected):
    """SM-18, TR-79."""
    assert " ".join(granted(requested, registered.split(" "))) == expected


@pytest.mark.parametrize(("requested", "registered", "expected"), CASES)
def test_what_is_granted_means_something(requested, registered, expected):
    assert all(parse_scope(word) for word in granted(requested, registered.split(" ")))


TYPES = [f"T{a}{b}" for a in "ABCDEFGHIJKLMNOP" for b in "abcdefghij"]


def test_every_type_may_be_named():
    words = [f"system/{name}.rs" for name in TYPES]

    assert granted(" ".join(words), words) == words
    assert granted("system/*.cruds", words) == words


def test_what_is_granted_has_a_limit():
    """A token with more would be refused, and working it out would take seconds."""
    words = [f"system/{name}.rs" for name in TYPES]
    several = " ".join(f"system/*.rs?a={number}" for number in range(300))

    assert len(several) < LONGEST
    with pytest.raises(ValueError, match="request fewer"):
        granted(several, words)
    with pytest.raises(ValueError, match="more than"):
        granted("x" * (LONGEST + 1), words)
