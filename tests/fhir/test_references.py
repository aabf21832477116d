import pytest

from helios_core.fhir.references import (
    conditional_references,
    replace_conditional,
    split_reference,
)

UUID = "urn:uuid:8dc6cf13-8c1e-4ac6-8d4a-6b2d4d0b6c1f"
OID = "urn:oid:1.2.36.146"


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        ("Patient/x", ("Patient", "x")),
        ("Patient/x/_history/2", ("Patient", "x")),
        ("http://a.example/fhir/Patient/x", ("Patient", "x")),
        ("http://b.example/Patient/x", ("Patient", "x")),
        ("http://a.example/fhirPatient/x", None),
        ("http://a.example/Patient/x", None),
        ("http://a.example/fhir/", None),
        ("/Patient/x", None),
        ("Patient/x/", None),
        ("Patient/x\n", None),
        ("Patient/x/_history/", None),
        ("Patient/" + "x" * 64, ("Patient", "x" * 64)),
        ("Patient/" + "x" * 65, None),
        ("patient/x", None),
        ("Patient", None),
        ("#x", None),
        (UUID, None),
        ("Patient?identifier=x", None),
    ],
)
def test_a_reference_is_split_when_it_is_literal_and_ours(reference, target):
    bases = ("http://a.example/fhir", "http://b.example/")

    assert split_reference(reference, bases) == target


def test_references_that_are_searches_are_found_and_replaced():
    by_number = rb'"reference":"Practitioner?identifier=a\\,b|\"1\""'
    body = (
        b'{"a":{%b},"b":{"reference":"Patient/p"},"c":"\\"reference\\":\\"Group?x=1\\""}'
        % by_number
    )

    found = conditional_references(body)
    rewritten = replace_conditional(body, dict.fromkeys(found, "Practitioner/d"))

    assert found == {'Practitioner?identifier=a\\,b|"1"'}
    assert rewritten == body.replace(by_number, b'"reference":"Practitioner/d"')


@pytest.mark.parametrize("mark", [b"\\u003f", b"\\u003F"])
def test_the_mark_of_a_search_may_be_escaped(mark):
    body = b'{"a":{"reference":"Practitioner%bidentifier=1"}}' % mark

    assert conditional_references(body) == {"Practitioner?identifier=1"}
    rewritten = replace_conditional(body, {"Practitioner?identifier=1": "Practitioner/d"})
    assert rewritten == b'{"a":{"reference":"Practitioner/d"}}'


def test_a_search_that_is_no_text_is_left_to_those_who_check_resources():
    body = b'{"a":{"reference":"Practitioner?name=\\ud800"}}'

    assert conditional_references(body) == set()
    assert replace_conditional(body, {}) == body
