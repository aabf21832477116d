"""Filtered exports of a population, against predicates that know nothing of search."""

from collections import defaultdict
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helios_core.cli.demo.population import Population
from helios_core.model.exports import Level

TYPES = ("Condition", "Encounter", "Observation", "Patient")


def population():
    made = Population(seed=7)
    lines = made.lines(expected=8, patients=range(8))
    resources = [msgspec.json.decode(line) for _, line in lines]
    return [each for each in resources if each["resourceType"] in TYPES]


EVERYTHING = population()
BY_TYPE = defaultdict(list)
for resource in EVERYTHING:
    BY_TYPE[resource["resourceType"]].append(resource)
PATIENTS = {each["id"]: each for each in BY_TYPE["Patient"]}


def subject_of(resource):
    return resource["subject"]["reference"].removeprefix("Patient/")


def codings(resource):
    return {(each.get("system"), each["code"]) for each in resource["code"]["coding"]}


def by_id(drawn):
    return f"_id={drawn['id']}", lambda each: each["id"] == drawn["id"]


def by_gender(drawn):
    return f"gender={drawn['gender']}", lambda each: each["gender"] == drawn["gender"]


def born_after(drawn):
    day = drawn["birthDate"]
    return f"birthdate=gt{day}", lambda each: each["birthDate"] > day


def born_until(drawn):
    day = drawn["birthDate"]
    return f"birthdate=le{day}", lambda each: each["birthDate"] <= day


def by_code(drawn):
    system, code = min(codings(drawn))
    return f"code={system}|{code}", lambda each: (system, code) in codings(each)


def not_by_code(drawn):
    system, code = min(codings(drawn))
    return f"code:not={system}|{code}", lambda each: (system, code) not in codings(each)


def by_subject(drawn):
    subject = subject_of(drawn)
    return f"subject=Patient/{subject}", lambda each: subject_of(each) == subject


def by_gender_of_subject(drawn):
    gender = PATIENTS[subject_of(drawn)]["gender"]
    return (
        f"subject:Patient.gender={gender}",
        lambda each: PATIENTS[subject_of(each)]["gender"] == gender,
    )


ASKED = {
    "Condition": (by_id, by_code, not_by_code, by_subject, by_gender_of_subject),
    "Encounter": (by_id, by_subject, by_gender_of_subject),
    "Observation": (by_id, by_code, not_by_code, by_subject, by_gender_of_subject),
    "Patient": (by_id, by_gender, born_after, born_until),
}


@st.composite
def queries(draw):
    """A query of one or two parameters about values that occur, and what it means."""
    resource_type = draw(st.sampled_from(TYPES))
    asked = draw(st.lists(st.sampled_from(ASKED[resource_type]), min_size=1, max_size=2))
    made = [ask(draw(st.sampled_from(BY_TYPE[resource_type]))) for ask in asked]
    text = "&".join(quote(parameter, safe="=:") for parameter, _ in made)
    return f"{resource_type}?{text}", [predicate for _, predicate in made]


def shown(chosen):
    wanted = defaultdict(list)
    for query, predicates in chosen:
        wanted[query.partition("?")[0]].append(predicates)
    for each in EVERYTHING:
        alternatives = wanted.get(each["resourceType"])
        if alternatives is None or any(all(p(each) for p in ps) for ps in alternatives):
            yield f"{each['resourceType']}/{each['id']}"


@pytest.fixture
async def ward(clinic):
    await clinic.store(*EVERYTHING)
    return clinic


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    chosen=st.lists(queries(), min_size=1, max_size=4),
    level=st.sampled_from([Level.SYSTEM, Level.PATIENT]),
    joined=st.booleans(),
)
async def test_a_filtered_export_is_what_the_filters_mean(ward, chosen, level, joined):
    """B2-P-31, B2-P-34, RV-52"""
    texts = [query for query, _ in chosen]
    values = [",".join(texts)] if joined else texts

    exported = await ward.export(
        ("_type", ",".join(TYPES)), *(("_typeFilter", value) for value in values), level=level
    )

    assert exported == sorted(shown(chosen))
