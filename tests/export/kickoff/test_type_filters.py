"""Parsing of `_typeFilter` and `_elements`."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.errors import (
    InvalidParameter,
    InvalidRequest,
    TooCostly,
    UnsupportedParameter,
)
from helios_core.export.kickoff.parsing import parse_kickoff
from helios_core.export.kickoff.request import KickoffRequest
from helios_core.fhir.definitions import FHIRVersion
from helios_core.model.exports import Level, TypeFilter

STRICT = "respond-async, handling=strict"
LENIENT = "respond-async, handling=lenient"
ACTIVE = TypeFilter(resource_type="MedicationRequest", pairs=(("status", "active"),))
COMPLETED = TypeFilter(resource_type="MedicationRequest", pairs=(("status", "completed"),))


def reading(*query, handling="respond-async", body=None, level=Level.SYSTEM):
    parameters = None
    if body is not None:
        parameters = msgspec.json.encode({"resourceType": "Parameters", "parameter": body})
    call = KickoffRequest(
        tenant="default",
        fhir_version=FHIRVersion.R4,
        level=level,
        url="http://localhost/$export",
        query=query,
        body=parameters,
        prefer=[handling],
        base_url="http://localhost",
    )
    return parse_kickoff(call)


@pytest.mark.parametrize(
    "values",
    [
        ["MedicationRequest?status=active,MedicationRequest?status=completed"],
        ["MedicationRequest?status=active", "MedicationRequest?status=completed"],
    ],
)
def test_repeats_and_comma_joins_are_the_same_queries(values):
    """B2-P-34, B3-07, TR-17"""
    request = reading(*(("_typeFilter", value) for value in values))

    assert request.filters == (ACTIVE, COMPLETED)


def test_a_comma_inside_of_a_value_joins_nothing():
    """TR-17"""
    value = "Patient?identifier=a,b,Practitioner?identifier=c%2526"

    request = reading(("_typeFilter", value))

    assert request.filters == (
        TypeFilter(resource_type="Patient", pairs=(("identifier", "a,b"),)),
        TypeFilter(resource_type="Practitioner", pairs=(("identifier", "c%26"),)),
    )


@pytest.mark.parametrize("kind", ["valueString", "valueCode"])
def test_filters_and_elements_may_come_in_a_body(kind):
    """TR-13"""
    request = reading(
        body=[
            {"name": "_typeFilter", kind: "MedicationRequest?status=active"},
            {"name": "_typeFilter", kind: "MedicationRequest?status=completed"},
            {"name": "_elements", kind: "id,Patient.name"},
        ],
        level=Level.PATIENT,
    )

    assert request.filters == (ACTIVE, COMPLETED)
    assert request.elements == ("id", "Patient.name")


@pytest.mark.parametrize("name", ["_typeFilter", "_elements"])
def test_a_value_of_another_kind_is_refused_by_name(name):
    """TR-13"""
    with pytest.raises(InvalidParameter, match=name):
        reading(body=[{"name": name, "valueInteger": 1}])


@pytest.mark.parametrize("handling", ["respond-async", STRICT])
@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("Patient?nosuch=1", "nosuch"),
        ("Patient?gender:in=x", "gender"),
        ("Patient?birthdate=tomorrow", "birthdate"),
        ("Observation?_sort=date", "_sort"),
        ("Observation?_include=Observation:subject", "_include"),
        ("Observation?_elements=id", "_elements"),
        ("Observation?_count=1", "_count"),
    ],
)
def test_an_invalid_or_unsupported_query_is_refused(query, named, handling):
    """B2-P-32, B2-P-33, B3-10"""
    with pytest.raises(InvalidRequest, match=named) as refused:
        reading(("_typeFilter", query), handling=handling)

    assert "_typeFilter" in str(refused.value)
    assert "tomorrow" not in str(refused.value)


@pytest.mark.parametrize("handling", ["respond-async", STRICT, LENIENT])
def test_chains_have_a_bound_in_steps(handling):
    """Each step reads a type, whatever the searches are."""
    chains = [
        ("_typeFilter", f"Observation?subject:Patient.organization.name=a{number}")
        for number in range(50)
    ]
    more = ("_typeFilter", "Observation?subject:Patient._id=b")

    assert len(reading(*chains, *chains, handling=handling).filters) == 100
    with pytest.raises(TooCostly, match="_typeFilter"):
        reading(*chains, more, handling=handling)


def test_a_refusal_says_what_is_supported():
    with pytest.raises(UnsupportedParameter, match=r"Patient.*supported are: .*birthdate"):
        reading(("_typeFilter", "Patient?nosuch=1"))


@pytest.mark.parametrize("handling", ["respond-async", STRICT, LENIENT])
@pytest.mark.parametrize(
    "query",
    ["", "gender=male", "?_id=1", "Patient", "Patient/p1/Observation?code=a", "_filter=a eq b"],
)
def test_a_query_of_no_type_is_refused_under_every_handling(query, handling):
    """B3-10, RV-23"""
    with pytest.raises(InvalidParameter, match="_typeFilter"):
        reading(("_typeFilter", query), handling=handling)


def test_lenient_withholds_the_type_of_a_query_it_ignores():
    """B2-P-33"""
    request = reading(
        ("_type", "Patient,Condition"),
        ("_typeFilter", "Patient?nosuch=1"),
        ("_typeFilter", "Patient?gender=male"),
        handling=LENIENT,
    )

    assert request.types == ("Condition",)
    assert request.filters == ()
    [reason] = request.ignored
    assert "nosuch" in reason
    assert "Patient is left out" in reason


@pytest.mark.parametrize("query", ["Patient?gender=male", "Nonsense?gender=male"])
def test_a_filter_of_a_type_that_is_not_exported_is_refused(query):
    """TR-19"""
    with pytest.raises(InvalidParameter, match="_typeFilter"):
        reading(("_type", "Condition"), ("_typeFilter", query))


def test_lenient_ignores_a_filter_of_a_type_that_is_not_exported():
    """TR-19"""
    request = reading(
        ("_type", "Condition"), ("_typeFilter", "Patient?gender=male"), handling=LENIENT
    )

    assert request.types == ("Condition",)
    assert request.filters == ()
    assert "Patient" in request.ignored[0]


@pytest.mark.parametrize(
    "value", ["Patient.id", "Patient.id,meta", "meta", "value[x]", "value", "Observation.value"]
)
def test_root_elements_are_accepted(value):
    """B2-P-17, RV-17"""
    assert reading(("_elements", value)).elements == tuple(value.split(","))


@pytest.mark.parametrize("handling", ["respond-async", STRICT, LENIENT])
@pytest.mark.parametrize(
    "value",
    [
        "Patient.name.family",
        "a.b.c",
        "x.id",
        "x-y",
        "Patient.",
        ".id",
        ".",
        "",
        ",",
        "Patient.value",
        "Observation.name,Patient.code",
    ],
)
def test_invalid_elements_are_refused_if_no_valid_one_is_left(value, handling):
    """B2-P-17, B2-P-21, RV-17"""
    with pytest.raises(InvalidParameter, match="_elements"):
        reading(("_elements", value), handling=handling)


def test_an_element_that_no_exported_type_has_is_refused():
    with pytest.raises(InvalidParameter, match="birthDate"):
        reading(("_type", "Condition"), ("_elements", "id,birthDate"))


def test_lenient_ignores_invalid_elements_beside_valid_ones():
    """B2-P-21"""
    request = reading(("_elements", "id,a.b.c,Patient.bogus"), handling=LENIENT)

    assert request.elements == ("id",)
    assert len(request.ignored) == 2


QUERIES = st.one_of(
    st.text(),
    st.builds(
        "{}?{}={}".format,
        st.sampled_from(["Patient", "Observation", "Nonsense", ""]),
        st.one_of(st.text(), st.sampled_from(["birthdate", "code", "subject:Patient.name"])),
        st.text(),
    ),
)


@given(query=QUERIES, handling=st.sampled_from(["respond-async", STRICT, LENIENT]))
def test_garbage_is_refused_or_reported(query, handling):
    with suppress(InvalidRequest):
        request = reading(("_typeFilter", query), handling=handling)
        assert request.filters or request.ignored


@given(value=st.text(), handling=st.sampled_from(["respond-async", STRICT, LENIENT]))
def test_garbage_names_no_elements(value, handling):
    """Nor does it ever mean all of them."""
    with suppress(InvalidRequest):
        request = reading(("_elements", value), handling=handling)
        assert request.elements
        assert set(request.elements) <= set(value.split(","))
