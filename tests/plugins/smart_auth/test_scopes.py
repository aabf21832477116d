from itertools import chain, combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    (
        "system/*.cruds",
        "system/Observation.rs?code=a&status=final system/Observation.rs?status=final&code=a",
        "system/Observation.rs?code=a&status=final",
    ),
    (
        "system/Observation.cruds?code=a",
        "system/Observation.rs?status=final&code=a system/Observation.rs",
        "system/Observation.rs?code=a",
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


LETTERS = {"read": "rs", "write": "cud", "*": "cruds"}
"""Version 1; version 2 has its letters."""
CONDITIONS = ("code=a", "status=final", "_id=1")


def subsets(items):
    return chain.from_iterable(combinations(items, size) for size in range(len(items) + 1))


TYPE = st.sampled_from(["Patient", "Observation", "*"])
VERSION_1 = st.builds("system/{}.{}".format, TYPE, st.sampled_from(sorted(LETTERS)))
VERSION_2 = st.builds(
    lambda type_, letters, query: f"system/{type_}.{''.join(letters)}{'?' * bool(query)}{query}",
    TYPE,
    st.sampled_from([letters for letters in subsets("cruds") if letters]),
    st.sampled_from(["&".join(conditions) for conditions in subsets(CONDITIONS)]),
)
WORDS = st.lists(VERSION_1 | VERSION_2 | st.sampled_from(["openid", "user/*.rs"]), max_size=4)
REQUESTS = list(product(["Patient", "Observation"], "cruds", map(set, subsets(CONDITIONS))))
"""A type, what is done with it, and which conditions the resource meets."""


def means(words):
    """Return what words allow of all requests, without any code of the server."""
    allowed = set()
    for word in filter(lambda word: word.startswith("system/"), words):
        type_, _, rest = word.removeprefix("system/").partition(".")
        letters, _, query = rest.partition("?")
        conditions = {part for part in query.split("&") if part}
        allowed |= {
            number
            for number, (requested, letter, met) in enumerate(REQUESTS)
            if type_ in (requested, "*")
            and letter in LETTERS.get(letters, letters)
            and conditions <= met
        }
    return allowed


@given(WORDS, WORDS)
def test_what_is_granted_is_what_both_allow_and_nothing_else(requested, registered):
    """SM-18"""
    found = granted(" ".join(requested), registered)

    assert means(found) == means(requested) & means(registered)
