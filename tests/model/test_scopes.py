"""What the words of a token allow."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.model.scopes import LETTERS, NOTHING, Grant, Scopes, parse_scope

LAB = (("category", "laboratory"),)
VITAL = (("category", "vital-signs"),)
IN_ORDER = [
    "".join(letters)
    for size in range(1, len(LETTERS) + 1)
    for letters in itertools.combinations(LETTERS, size)
]


@pytest.mark.parametrize(
    ("word", "letters"),
    [("read", "rs"), ("write", "cud"), ("*", LETTERS), *((each, each) for each in IN_ORDER)],
)
@pytest.mark.parametrize("resource_type", ["*", "Observation"])
def test_both_versions_of_scopes_grant_their_letters(word, letters, resource_type):
    scopes = Scopes([f"system/{resource_type}.{word}"])

    assert {x for x in LETTERS if not scopes.grant("Observation", x).is_nothing} == {*letters}
    others = {x for x in LETTERS if not scopes.grant("Patient", x).is_nothing}
    assert others == ({*letters} if resource_type == "*" else set())


@pytest.mark.parametrize(
    "word",
    [
        "user/*.cruds",
        "patient/*.read",
        "user/Observation.rs",
        "system/Observation.sr",
        "system/Observation.rr",
        "system/Observation.rsx",
        "system/Observation.",
        "system/Observation",
        "system/observation.rs",
        "system/.rs",
        "system/**.rs",
        "System/*.rs",
        "system/*.READ",
        "system/*.rs?",
        "system/*.rs?category",
        "system/*.rs?category=",
        "system/*.rs?=laboratory",
        "system/*.rs?category=%ff",
        "system/*.rs?category=a&",
        "system/*.read?category=laboratory",
        "system/*.rs\n",
        " system/*.rs",
        "system/*.rs,system/*.cud",
        "offline_access",
        "openid",
        "",
    ],
)
def test_other_words_grant_nothing(word):
    scopes = Scopes([word])

    assert all(scopes.grant("Observation", letter).is_nothing for letter in LETTERS)


def test_a_search_limits_a_scope():
    scopes = Scopes(["system/Observation.rs?category=laboratory&status=final%7Cx"])

    assert scopes.grant("Observation", "r") == Grant((((*LAB, ("status", "final|x")),),))


def test_two_searches_are_alternatives_and_a_scope_without_one_has_them_all():
    narrow = ["system/Observation.rs?category=laboratory", "system/*.r?category=vital-signs"]

    assert Scopes(narrow).grant("Observation", "r") == Grant(((LAB, VITAL),))
    assert Scopes(narrow).grant("Observation", "rs") == Grant(((LAB, VITAL), (LAB,)))
    assert Scopes(narrow).grant("Patient", "rs") == Grant(((VITAL,), ()))
    assert Scopes([*narrow, "system/*.rs"]).grant("Observation", "rs").is_everything


def test_what_is_missing_is_named():
    assert Scopes(["system/Observation.r"]).missing("Observation", "rs") == "s"
    assert Scopes(["system/Observation.s"]).missing("Observation", "rs") == "r"
    assert Scopes([]).missing("Observation", "rs") == "rs"
    assert Scopes(["system/*.read"]).missing("Observation", "rs") == ""


GRANTS = st.builds(
    Grant, st.lists(st.lists(st.sampled_from([LAB, VITAL]), max_size=2).map(tuple)).map(tuple)
)


def has(grant, values):
    """Return whether a grant has a resource whose categories are `values`."""
    return all(any(query[0][1] in values for query in clause) for clause in grant.clauses)


@given(GRANTS, GRANTS)
def test_a_grant_covers_another_only_if_it_has_all_that_the_other_has(one, other):
    if one.covers(other):
        for size in range(3):
            for values in itertools.combinations(["laboratory", "vital-signs"], size):
                assert has(one, values) or not has(other, values)


@given(GRANTS)
def test_a_grant_covers_itself_and_nothing(grant):
    assert grant.covers(grant)
    assert grant.covers(NOTHING)
    assert Grant().covers(grant)


@given(
    st.lists(
        st.text(max_size=40) | st.from_regex(r"system/[A-Z*][a-z]*\.[cruds*]+", fullmatch=True)
    )
)
def test_more_words_never_take_anything_away(words):
    for letter in LETTERS:
        before = Scopes(words[:-1]).grant("Observation", letter)
        assert Scopes(words).grant("Observation", letter).covers(before)


@given(st.text())
def test_any_text_is_a_scope_or_none(word):
    scope = parse_scope(word)

    assert scope is None or word.startswith("system/")


def test_what_is_remembered_of_grants_has_a_bound():
    scopes = Scopes(("system/Patient.rs?_id=a", "system/*.r"))

    limited = scopes.grant("Patient", "rs")
    others = {id(scopes.grant(f"Type{number}", "rs")) for number in range(1000)}

    assert limited is scopes.grant("Patient", "rs")
    assert limited != scopes.grant("Patient", "r")
    assert scopes.grant("*", "rs") == scopes.grant("Type1", "rs")
    assert len(others) == 1
