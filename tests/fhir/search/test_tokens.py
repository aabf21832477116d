"""FHIR R4, 3.1.1.4.10."""

import pytest

from helios_core.errors import InvalidParameter, UnsupportedParameter

LOINC = "http://loinc.org"
OBSERVATION = {
    "resourceType": "Observation",
    "status": "final",
    "code": {
        "coding": [
            {"system": LOINC, "code": "8302-2", "display": "Body Height"},
            {"code": "HEIGHT"},
            {"system": "urn:only-system"},
        ],
        "text": "Höhe des Körpers",
    },
    "category": [{"coding": [{"code": "vital-signs"}]}, {"coding": [{"code": "exam"}]}],
}
PATIENT = {
    "resourceType": "Patient",
    "active": True,
    "gender": "female",
    "identifier": [
        {
            "system": "urn:mrn",
            "value": "A17",
            "type": {"coding": [{"system": "urn:v2", "code": "MR"}], "text": "Record number"},
        },
        {"value": "B|4"},
    ],
    "telecom": [{"system": "phone", "value": "555-0100"}, {"system": "email", "value": "a@b.org"}],
}


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("code=8302-2", True),
        ("code=http://loinc.org|8302-2", True),
        ("code=http://loinc.org|", True),
        ("code=urn:only-system|", True),
        ("code=|HEIGHT", True),
        ("code=height", True),
        ("code=HEIGHT", True),
        ("code=urn:x|8302-2", False),
        ("code=HTTP://LOINC.ORG|8302-2", False),
        ("code=|8302-2", False),
        ("code=urn:x|", False),
        ("code=8302", False),
        ("code=Body Height", False),
        ("code=nothing,8302-2", True),
        ("code=urn:x|1,|HEIGHT", True),
        ("code=nothing,never", False),
        ("category=exam", True),
        ("status=final", True),
        ("status=FINAL", True),
        ("status=preliminary", False),
    ],
)
def test_a_code_matches_in_any_coding_with_the_system_asked_for(match, query, matches):
    assert match(OBSERVATION, query) is matches


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("status=http://hl7.org/fhir/observation-status|final", True),
        ("status=|final", True),
        ("status=http://hl7.org/fhir/observation-status|", True),
        ("status=http://hl7.org/fhir/observation-status|amended", False),
    ],
)
def test_of_an_element_with_an_implied_system_the_code_decides(match, query, matches):
    assert match(OBSERVATION, query) is matches


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("identifier=urn:mrn|A17", True),
        ("identifier=A17", True),
        ("identifier=urn:mrn|", True),
        ("identifier=|A17", False),
        (r"identifier=|B\|4", True),
        (r"identifier=B\|4", True),
        ("identifier=urn:other|A17", False),
        ("phone=555-0100", True),
        ("email=555-0100", False),
        ("email=a@b.org", True),
        ("telecom=a@b.org", True),
        ("gender=female", True),
        ("gender=male,female", True),
        ("active=true", True),
        ("active=false", False),
        ("deceased=false", True),
        ("deceased=true", False),
    ],
)
def test_identifiers_contacts_codes_and_booleans_match_as_a_whole(match, query, matches):
    assert match(PATIENT, query) is matches


@pytest.mark.parametrize(
    ("deceased", "answer"),
    [
        ({}, "false"),
        ({"deceasedBoolean": False}, "false"),
        ({"deceasedBoolean": True}, "true"),
        ({"deceasedDateTime": "2013"}, "true"),
    ],
)
def test_deceased_is_true_or_false_of_every_patient(match, deceased, answer):
    patient = {"resourceType": "Patient", **deceased}

    assert match(patient, f"deceased={answer}")
    assert not match(patient, f"deceased={'true' if answer == 'false' else 'false'}")


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("gender:not=male", True),
        ("gender:not=female", False),
        ("gender:not=male,female", False),
        ("gender:not=male,other", True),
    ],
)
def test_not_is_true_of_what_has_none_of_the_values(match, query, matches):
    assert match(PATIENT, query) is matches


def test_not_is_true_where_there_is_no_value(match):
    assert match({"resourceType": "Patient"}, "gender:not=male")


def test_not_speaks_of_all_values_together(match):
    """Composition?section:not=48765-2 is not "has a section that is another one"."""
    assert not match(OBSERVATION, "category:not=exam")


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("code:text=body", True),
        ("code:text=BODY HEI", True),
        ("code:text=height", False),
        ("code:text=hohe", True),
        ("code:text=never,hohe des", True),
        ("code:text=8302-2", False),
    ],
)
def test_text_searches_texts_and_displays_from_their_beginning(match, query, matches):
    assert match(OBSERVATION, query) is matches


def test_text_of_an_identifier_is_that_of_its_type(match):
    assert match(PATIENT, "identifier:text=record")
    assert not match(PATIENT, "identifier:text=a17")


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("identifier:of-type=urn:v2|MR|A17", True),
        ("identifier:of-type=urn:v2|MR|A18", False),
        ("identifier:of-type=urn:v2|SS|A17", False),
        ("identifier:of-type=urn:x|MR|A17", False),
        ("identifier:of-type=urn:x|MR|A17,urn:v2|MR|A17", True),
    ],
)
def test_of_type_asks_for_type_and_value_of_one_identifier(match, query, matches):
    assert match(PATIENT, query) is matches


@pytest.mark.parametrize(
    "query",
    [
        "identifier:of-type=A17",
        "identifier:of-type=MR|A17",
        "identifier:of-type=|MR|A17",
        "identifier:of-type=urn:v2|MR|",
        "identifier=a|b|c",
        "identifier=|",
        "active=yes",
        "active=http://hl7.org/fhir/special-values|true",
        "phone=|555-0100",
        "gender:missing=yes",
        "gender:missing=TRUE",
        "gender:missing=true,false",
    ],
)
def test_a_value_that_cannot_be_a_token_is_refused_without_repeating_it(match, query):
    with pytest.raises(InvalidParameter) as refusal:
        match(PATIENT, query)

    assert query.partition("=")[0].partition(":")[0] in str(refusal.value)
    assert "A17" not in str(refusal.value)


@pytest.mark.parametrize("modifier", ["in", "not-in", "above", "below"])
def test_what_takes_a_terminology_server_is_refused_by_that_reason(match, modifier):
    with pytest.raises(UnsupportedParameter, match="no terminology server"):
        match(OBSERVATION, f"code:{modifier}=http://example.org/ValueSet/x")


@pytest.mark.parametrize("query", ["code:of-type=a|b|c", "code:exact=a", "status:text=final"])
def test_a_modifier_that_does_not_fit_the_parameter_is_refused_with_those_that_do(match, query):
    with pytest.raises(UnsupportedParameter, match="supported modifiers are: missing, not"):
        match(OBSERVATION, query)


def test_an_id_is_compared_with_its_case(match):
    patient = {"resourceType": "Patient", "id": "Ab-1"}

    assert match(patient, "_id=Ab-1")
    assert match(patient, "_id=x,Ab-1")
    assert not match(patient, "_id=ab-1")


def test_a_codeable_reference_is_searched_by_its_concept(match):
    concept = {"coding": [{"system": LOINC, "code": "a"}], "text": "Alpha"}
    request = {"resourceType": "MedicationRequest", "medication": {"concept": concept}}

    assert match(request, f"code={LOINC}|a", version="R5")
    assert match(request, "code:text=alp", version="R5")
    assert not match(request, "code=b", version="R5")


@pytest.mark.parametrize("code", [7, None, [], "text", {"coding": "x"}, {"coding": [None, 7]}])
def test_what_is_not_shaped_as_fhir_says_matches_nothing_and_breaks_nothing(match, code):
    assert not match({"resourceType": "Observation", "code": code}, "code=8302-2")
    assert not match({"resourceType": "Observation", "code": code}, "code:text=body")
