import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from helios_core.errors import InvalidResource
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.resources import Resource, parse_resource

R4 = FHIRVersion.R4
NOW = datetime(2026, 11, 22, 19, 46, 11, 123456, tzinfo=UTC)
STAMP = b'"versionId":"3","lastUpdated":"2026-11-22T19:46:11.123456Z"'


def line(body, version=R4, **expected):
    return parse_resource(body, version, **expected).stamped(3, NOW)


def test_a_line_begins_with_type_id_and_meta_and_keeps_the_rest_in_order():
    body = b"""{
      "status": "final", "id": "x", "valueQuantity": {"value": 1.10},
      "meta": {"profile": ["p"], "versionId": "9", "tag": [],
               "lastUpdated": "2000-01-01T00:00:00Z"},
      "resourceType": "Observation", "_status": {"id": "\\u00e9"}
    }"""

    assert line(body) == (
        b'{"resourceType":"Observation","id":"x","meta":{' + STAMP + b',"profile":["p"],"tag":[]},'
        b'"status":"final","valueQuantity":{"value":1.10},"_status":{"id":"\\u00e9"}}'
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"resourceType":"Basic","id":"x"}', b"}}"),
        (b'{"resourceType":"Basic","id":"x","meta":{}}', b"}}"),
        (b'{"resourceType":"Basic","id":"x","meta":{"versionId":"1"}}', b"}}"),
        (b'{"resourceType":"Basic","id":"x","a":1}', b'},"a":1}'),
        (b'{"resourceType":"Basic","id":"x","meta":{"source":"s"}}', b',"source":"s"}}'),
        (
            b'{"meta":{"source":"s"},"a":1,"resourceType":"Basic","id":"x"}',
            b',"source":"s"},"a":1}',
        ),
    ],
)
def test_a_line_is_right_with_and_without_meta_and_elements(body, expected):
    assert line(body) == b'{"resourceType":"Basic","id":"x","meta":{' + STAMP + expected


def test_the_stamp_is_written_in_utc_whatever_the_zone():
    resource = parse_resource(b'{"resourceType":"Basic","id":"x"}', R4)
    there = NOW.astimezone(timezone(timedelta(hours=-5)))

    assert resource.stamped(3, there) == resource.stamped(3, NOW)


@pytest.mark.parametrize(
    "number", ["1.10", "1e-7", "1E+400", "-0", "-0.0", "9" * 40, "0.1000000000000000000001"]
)
def test_numbers_keep_their_text(number):
    """TR-52"""
    body = f'{{"resourceType":"Basic","id":"x","meta":{{"n":{number}}},"n":[{number}]}}'

    assert line(body.encode()).decode().count(number) == 2


@pytest.mark.parametrize(
    "text", [r"\u00e9", "é", r"\/", r"\ud834\udd1e", "\U0001d11e", r"\\u0000", "\u2028"]
)
def test_strings_keep_their_spelling(text):
    body = f'{{"resourceType":"Basic","id":"x","text":"{text}"}}'.encode()

    assert line(body).endswith(f'"text":"{text}"}}'.encode())


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(
        alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(alphabet='ab"\\é', max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(
    elements=st.dictionaries(st.sampled_from(["a", "b", "contained", "é", '"', "_id"]), VALUES),
    meta=st.none()
    | st.dictionaries(st.sampled_from(["versionId", "lastUpdated", "tag", "é"]), VALUES),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_a_resource_survives_apart_from_its_stamp(elements, meta, indent, ascii_only):
    content = {**elements, "resourceType": "Basic", "id": "x"} | (
        {"meta": meta} if meta is not None else {}
    )
    body = json.dumps(content, indent=indent, ensure_ascii=ascii_only).encode()

    stamped = line(body)

    stored = json.loads(stamped)
    kept = {
        name: value
        for name, value in (meta or {}).items()
        if name not in {"versionId", "lastUpdated"}
    }
    assert stored.pop("meta") == {
        "versionId": "3",
        "lastUpdated": "2026-11-22T19:46:11.123456Z",
        **kept,
    }
    assert stored == {name: value for name, value in content.items() if name != "meta"}
    assert b"\n" not in stamped


def test_parsing_a_stored_line_again_changes_nothing():
    first = parse_resource(
        b'{"id":"x","resourceType":"Basic","meta":{"tag":[1.0]},"a": "\\u00e9"}', R4
    )

    again = parse_resource(first.stamped(7, NOW), R4)

    assert again == first


def test_the_hash_is_of_the_content_and_not_of_the_stamp():
    def content_hash(body):
        return parse_resource(body, R4).content_hash

    plain = content_hash(b'{"resourceType":"Basic","id":"x","a":1}')

    assert plain == content_hash(
        b'{ "id":"x", "resourceType":"Basic", "meta":{"versionId":"4"}, "a":1 }'
    )
    assert plain != content_hash(b'{"resourceType":"Basic","id":"x","a":1.0}')
    assert plain == xxhash.xxh3_64_intdigest(b'{"resourceType":"Basic","id":"x","meta":{},"a":1}')


@pytest.mark.parametrize("resource_id", ["a", "A-Z.0-9", "x" * 64, "-", "."])
def test_every_id_the_specification_allows_is_accepted(resource_id):
    body = json.dumps({"resourceType": "Basic", "id": resource_id}).encode()

    assert parse_resource(body, R4).id == resource_id


def test_an_absent_id_is_filled_in_from_the_request():
    resource = parse_resource(b'{"resourceType":"Patient"}', R4, resource_id="x")

    assert resource.id == "x"
    assert resource.patients == ("x",)
    assert resource.head == b'{"resourceType":"Patient","id":"x","meta":{'


@pytest.mark.parametrize(
    "body",
    [
        b'{"resourceType":"Patient","id":"mine"}',
        b'{"resourceType":"Patient"}',
        b'{"resourceType":"Patient","id":7}',
    ],
)
def test_an_assigned_id_replaces_whatever_the_body_says(body):
    resource = parse_resource(body, R4, assigned_id="given")

    assert resource.id == "given"
    assert resource.patients == ("given",)
    assert resource.stamped(1, NOW).startswith(b'{"resourceType":"Patient","id":"given","meta":{')


def test_patients_are_those_of_the_compartment_under_the_base_urls():
    body = b"""{"resourceType":"Observation","id":"x","subject":{"reference":"Patient/b"},
      "performer":[{"reference":"http://here.example/Patient/a"},
                   {"reference":"http://there.example/Patient/c"}]}"""

    assert parse_resource(body, R4).patients == ("b",)
    assert parse_resource(body, R4, base_urls=("http://here.example",)).patients == ("a", "b")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{}", "resourceType is missing"),
        (b'{"resourceType":null}', "resourceType is missing"),
        (b'{"resourceType":["Patient"]}', "resourceType is missing"),
        (b'{"resourceType":"Smith","id":"x"}', "not a resource type of FHIR R4, nor of another"),
        (b'{"resourceType":"patient","id":"x"}', "not a resource type of FHIR R4, nor of another"),
        (b'{"resourceType":"DomainResource","id":"x"}', "not a resource type of FHIR R4"),
        (
            b'{"resourceType":"InventoryItem","id":"x"}',
            "InventoryItem is not a resource type of FHIR R4, but of R5, R6",
        ),
        (b'{"resourceType":"Basic"}', "the resource has no id"),
        (b'{"resourceType":"Basic","id":null}', "id must be a string"),
        (b'{"resourceType":"Basic","id":7}', "id must be a string"),
        (b'{"resourceType":"Basic","id":""}', "id must be a string"),
        (b'{"resourceType":"Basic","id":"a/b"}', "id must be a string"),
        (b'{"resourceType":"Basic","id":"a_b"}', "id must be a string"),
        (b'{"resourceType":"Basic","id":"x\\n"}', "id must be a string"),
        ('{"resourceType":"Basic","id":"é"}'.encode(), "id must be a string"),
        (b'{"resourceType":"Basic","id":"' + b"x" * 65 + b'"}', "id must be a string"),
        (b'{"resourceType":"Basic","id":"x","meta":null}', "meta must be an object"),
        (b'{"resourceType":"Basic","id":"x","meta":[]}', "meta must be an object"),
        (b'{"resourceType":"Basic","id":"x","meta":"m"}', "meta must be an object"),
        (b'{"resourceType":"Basic","id":"x","meta":{"tag":1,"tag":1}}', "same name"),
        (rb'{"resourceType":"Basic","id":"x","a":"\u0000"}', "NUL"),
    ],
)
def test_what_is_not_a_resource_is_refused_with_the_reason(body, reason):
    with pytest.raises(InvalidResource, match=reason):
        parse_resource(body, R4)


def test_a_body_must_be_of_the_type_and_id_of_the_request():
    body = b'{"resourceType":"Patient","id":"secret"}'

    with pytest.raises(InvalidResource, match="of type Patient; Group is required"):
        parse_resource(body, R4, resource_type="Group")
    with pytest.raises(InvalidResource, match="must be equal") as caught:
        parse_resource(body, R4, resource_type="Patient", resource_id="other")

    assert "secret" not in str(caught.value)
    assert "other" not in str(caught.value)
    assert isinstance(parse_resource(body, R4, resource_id="secret"), Resource)


@pytest.mark.parametrize(
    ("resource_type", "versions"),
    [
        ("Binary", list(FHIRVersion)),
        ("Parameters", list(FHIRVersion)),
        ("Bundle", list(FHIRVersion)),
        ("Media", [FHIRVersion.R4, FHIRVersion.R4B]),
        ("Transport", [FHIRVersion.R5, FHIRVersion.R6]),
    ],
)
def test_the_definitions_of_the_version_decide_what_can_be_stored(resource_type, versions):
    body = json.dumps({"resourceType": resource_type, "id": "x"}).encode()

    for version in FHIRVersion:
        if version in versions:
            assert parse_resource(body, version).resource_type == resource_type
        else:
            with pytest.raises(InvalidResource, match=f"{resource_type} is not a resource type"):
                parse_resource(body, version)


@pytest.mark.parametrize("version", ["R4", "R4B", "R5"])
def test_every_example_of_the_specification_comes_back_as_it_was(version, spec_examples):
    def exact(text):
        content = json.loads(text, parse_float=str, parse_int=str)
        for name in ("versionId", "lastUpdated"):
            content.get("meta", {}).pop(name, None)
        return content.pop("meta", None) or {}, content

    for body in spec_examples[version]:
        stamped = line(body, FHIRVersion(version))

        assert exact(stamped) == exact(body)
        assert stamped.count(b"\n") == 0
        assert parse_resource(stamped, FHIRVersion(version)).stamped(3, NOW) == stamped
