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


SEARCH = "Practitioner?identifier=http://a.example/x|1"


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize(
    ("reference", "search"),
    [
        (SEARCH, SEARCH),
        (f"/{SEARCH}", SEARCH),
        (SEARCH.replace("?", "/?"), SEARCH),
        (f"https://here.example/fhir/{SEARCH}", SEARCH),
        (f"https://here.example/fhir/{SEARCH.replace('?', '/?')}", SEARCH),
        (f"https://here.example/fhir//{SEARCH}", SEARCH),
        (f"https://here.example/{SEARCH}", None),
        (f"https://here.example/fhir/x/{SEARCH}", None),
        (f"https://there.example/fhir/{SEARCH}", None),
        (f"//{SEARCH}", None),
        (f"x/{SEARCH}", None),
        ("practitioner?identifier=1", None),
        ("Practitioner/1?identifier=1", None),
        ("?identifier=1", None),
        ("Practitioner#?identifier=1", None),
    ],
)
def test_a_conditional_reference_may_be_spelled_as_an_address(reference, search, escaped):
    bases = ("https://here.example/fhir/",)
    spelled = reference.replace("/", "\\/") if escaped else reference
    body = f'{{"a":{{"reference":"{spelled}"}},"b":1}}'.encode()

    found = conditional_references(body, bases)

    assert found == ({search} if search else set())
    replaced = replace_conditional(body, dict.fromkeys(found, "Practitioner/d"), bases)
    assert replaced == (b'{"a":{"reference":"Practitioner/d"},"b":1}' if search else body)


def test_a_search_that_is_no_text_is_left_to_those_who_check_resources():
    body = b'{"a":{"reference":"Practitioner?name=\\ud800"}}'

    assert conditional_references(body) == set()
    assert replace_conditional(body, {}) == body
