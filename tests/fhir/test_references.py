import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.fhir.references import (
    conditional_references,
    replace_conditional,
    replace_temporary,
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


def test_temporary_references_become_real_ones_and_the_rest_stays():
    body = b'{"a":{"reference":"%b"},"b":[{"display":"x","reference":"%b"}],"c":1.10}' % (
        UUID.encode(),
        OID.encode(),
    )

    rewritten, unresolved = replace_temporary(body, {UUID: "Patient/p", OID: "Group/g"})

    assert rewritten == (
        b'{"a":{"reference":"Patient/p"},"b":[{"display":"x","reference":"Group/g"}],"c":1.10}'
    )
    assert unresolved == set()


def test_what_the_mapping_does_not_know_is_kept_and_reported():
    body = f'{{"a":{{"reference":"{UUID}"}},"b":{{"reference":"Patient/p"}}}}'.encode()

    assert replace_temporary(body, {}) == (body, {UUID})


@pytest.mark.parametrize(
    "content",
    [
        f'{{"reference":"{UUID}"}}',
        f'"reference":"{UUID}"',
        f',"reference":"{UUID}"',
        UUID,
    ],
)
def test_text_that_only_looks_like_a_reference_is_left_alone(content):
    body = msgspec.json.encode({"div": content, "system": UUID, "fullUrl": UUID})

    assert replace_temporary(body, {UUID: "Patient/p"}) == (body, set())


def test_a_member_whose_name_only_ends_in_reference_is_left_alone():
    body = msgspec.json.encode({'a"reference': UUID, "xreference": UUID})

    assert replace_temporary(body, {UUID: "Patient/p"}) == (body, set())


def test_a_target_cannot_break_out_of_its_string():
    body = f'{{"a":{{"reference":"{UUID}"}}}}'.encode()

    rewritten, _ = replace_temporary(body, {UUID: 'Patient/x","b":"'})

    assert json.loads(rewritten) == {"a": {"reference": 'Patient/x","b":"'}}


def test_text_that_is_not_utf8_is_left_for_parsing_to_refuse():
    body = b'{"a":{"reference":"urn:uuid:\xff"}}'

    assert replace_temporary(body, {})[0] == body


@given(
    st.recursive(
        st.sampled_from([UUID, OID, "Patient/p", '"', "\\", "{", ","]) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["reference", "text", '"reference', "a"]), inner)
        ),
        max_leaves=12,
    )
)
def test_exactly_the_reference_members_are_rewritten(tree):
    def expected(node, name=None):
        if isinstance(node, dict):
            return {key: expected(value, key) for key, value in node.items()}
        if isinstance(node, list):
            return [expected(item) for item in node]
        return "Patient/real" if name == "reference" and node == UUID else node

    rewritten, unresolved = replace_temporary(msgspec.json.encode(tree), {UUID: "Patient/real"})

    assert json.loads(rewritten) == expected(tree)
    assert unresolved <= {OID}


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


def test_a_search_that_is_no_text_is_left_to_those_who_check_resources():
    body = b'{"a":{"reference":"Practitioner?name=\\ud800"}}'

    assert conditional_references(body) == set()
    assert replace_conditional(body, {}) == body
