import msgspec
import pytest

from helios_core.export.reduction import elements_for
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.subsetting import keep_elements

SUBSETTED = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
    "code": "SUBSETTED",
}
OBSERVATION = (
    b'{"resourceType":"Observation","id":"o","meta":{"versionId":"3"},"status":"final",'
    b'"_status":{"id":"s"},"code":{"text":"a"},"valueQuantity":{"value":1.2300e+5},'
    b'"_valueString":{"id":"v"},"note":[{"text":"x"}],"issued":"2024-01-01T00:00:00Z"}'
)


def trimmed(line, *elements, resource_type="Observation", version=FHIRVersion.R4):
    [left] = keep_elements(version, resource_type, elements)(line)
    return msgspec.json.decode(left)


def test_elements_neither_requested_nor_mandatory_are_dropped():
    """B2-P-16, B2-P-19"""
    assert set(trimmed(OBSERVATION, "issued")) == {
        "resourceType",
        "id",
        "meta",
        "status",
        "_status",
        "code",
        "issued",
    }


def test_a_choice_is_kept_in_whatever_type_it_has():
    resource = trimmed(OBSERVATION, "value")

    assert resource["_valueString"] == {"id": "v"}
    assert "valueQuantity" in resource


def test_numbers_keep_their_text():
    [line] = keep_elements(FHIRVersion.R4, "Observation", ["valueQuantity"])(OBSERVATION)

    assert b'"valueQuantity":{"value":1.2300e+5}' in line


@pytest.mark.parametrize(
    ("meta", "tags"),
    [
        (b"", [SUBSETTED]),
        (b'"meta":{},', [SUBSETTED]),
        (b'"meta":{"tag":[]},', [SUBSETTED]),
        (b'"meta":{"tag":[{"code":"a"}]},', [{"code": "a"}, SUBSETTED]),
        (b'"meta":{"tag":[' + msgspec.json.encode(SUBSETTED) + b"]},", [SUBSETTED]),
        (b'"meta":{"t\\u0061g":[{"code":"a"}]},', [{"code": "a"}, SUBSETTED]),
        (b'"meta":{"source":"a \\"tag\\" b"},', [SUBSETTED]),
        (b'"meta":{"tag":[{"code":7}]},', [{"code": 7}, SUBSETTED]),
    ],
)
def test_a_trimmed_resource_is_tagged_once(meta, tags):
    """B2-P-20"""
    line = b'{"resourceType":"Patient","id":"p",' + meta + b'"active":true}'

    assert trimmed(line, "id", resource_type="Patient")["meta"]["tag"] == tags


def test_trimming_twice_changes_nothing_more():
    trim = keep_elements(FHIRVersion.R4, "Observation", ["value", "note"])

    [once] = trim(OBSERVATION)
    assert trim(once) == [once]


def test_meta_keeps_everything_else():
    line = b'{"resourceType":"Patient","id":"p","meta":{"profile":["a"],"versionId":"3"}}'

    meta = trimmed(line, "id", resource_type="Patient")["meta"]

    assert meta == {"profile": ["a"], "versionId": "3", "tag": [SUBSETTED]}


@pytest.mark.parametrize("name", ["class", "for", "import", "True", "meta", "resourceType"])
def test_an_element_may_have_the_name_of_a_python_keyword(name):
    line = b'{"resourceType":"Encounter","id":"e","status":"finished","class":{"code":"AMB"}}'

    assert trimmed(line, name, resource_type="Encounter")["class"] == {"code": "AMB"}


def test_an_entry_without_a_type_applies_to_every_type():
    """B2-P-18"""
    assert elements_for(["id", "Patient.name"], "Patient") == {"id", "name"}
    assert elements_for(["id", "Patient.name"], "Condition") == {"id"}


def test_entries_of_other_types_leave_a_type_alone():
    assert elements_for(["Patient.name"], "Condition") is None
    assert elements_for([], "Condition") is None


@pytest.mark.parametrize(
    ("meta", "kept"),
    [
        (b"{}", []),
        (b'{"tag":null}', []),
        (b'{"tag":"x"}', []),
        (b'{"tag":{"code":"x"}}', []),
        (b'{ "tag" : [ ] }', []),
        (b'{"tag":[1,null,"x",[],{"system":5,"code":1e999}]}', 5),
        (b'{"tag":[1],"versionId":"3"}', [1]),
        (b"null", []),
        (b'"x"', []),
        (b"[1]", []),
    ],
)
@pytest.mark.parametrize("beside", [b"", b'{"resourceType":"Patient","meta":{"versionId":"1"}}\n'])
def test_whatever_is_stored_as_meta_the_tag_is_added(meta, kept, beside):
    line = b'{"resourceType":"Patient","id":"p","meta":' + meta + b',"active":true}'

    *_, left = keep_elements(FHIRVersion.R4, "Patient", ["active"])(beside + line)

    tags = msgspec.json.decode(left, type=dict[str, msgspec.Raw])["meta"]
    tags = msgspec.json.decode(tags, type=dict[str, msgspec.Raw])["tag"]
    *before, last = msgspec.json.decode(tags, type=list[msgspec.Raw])
    assert msgspec.json.decode(last) == SUBSETTED
    if isinstance(kept, int):
        assert len(before) == kept
    else:
        assert [msgspec.json.decode(tag) for tag in before] == kept


CONTAINED = (
    b'"contained":['
    b'{"resourceType":"Organization","id":"o1"},'
    b'{"resourceType":"PractitionerRole","id":"r1","practitioner":{"reference":"#d1"},'
    b'"organization":{"reference":"#o1"}},'
    b'{"resourceType":"Practitioner","id":"d1","extension":[{"url":"x","valueUri":"#r1"}]},'
    b'{"resourceType":"Patient","id":"p1"}]'
)


@pytest.mark.parametrize(
    ("elements", "members", "kept"),
    [
        (["performer"], b'"performer":[{"reference":"#r1"}]', ["o1", "r1", "d1"]),
        (
            ["performer"],
            b'"performer":[{"reference":"\\u0023o\\u0031"},{"reference":"#o1"}]',
            ["o1"],
        ),
        (["performer"], b'"performer":[{"reference":"\\u0023p1"}]', ["p1"]),
        (["instantiatesCanonical"], b'"instantiatesCanonical":"#p1"', ["p1"]),
        (["performer"], b'"performer":[{"reference":"#other"}]', []),
        (["performer"], b'"performer":[{"reference":"#"}]', []),
        (["performer"], b'"performer":[{"reference":"Patient/p1"}]', []),
        (["issued"], b'"performer":[{"reference":"#r1"}]', []),
        (["contained"], b'"performer":[{"reference":"#r1"}]', ["o1", "r1", "d1", "p1"]),
    ],
)
def test_contained_resources_are_kept_that_kept_elements_refer_to(elements, members, kept):
    line = b'{"resourceType":"Observation","id":"o",' + CONTAINED + b"," + members + b"}"

    resource = trimmed(line, *elements, version=FHIRVersion.R5)

    assert [each["id"] for each in resource.get("contained", [])] == kept


@pytest.mark.parametrize("contained", [b"null", b"{}", b'"x"', b"[7]", b'[{"id":7}]', b"[[]]"])
def test_what_is_no_list_of_contained_resources_is_left_out(contained):
    line = (
        b'{"resourceType":"Observation","id":"o","subject":{"reference":"#p"},"contained":'
        + contained
        + b"}"
    )

    assert "contained" not in trimmed(line, "subject")


def test_of_several_lines_each_keeps_its_own_contained_resources():
    lines = [
        (
            b'{"resourceType":"Observation","id":"a","subject":{"reference":"#p"},'
            b'"contained":[{"resourceType":"Patient","id":"p"}]}'
        ),
        b'{"resourceType":"Observation","id":"b","subject":{"reference":"#p"}}',
        b'{"resourceType":"Observation","id":"c","contained":[{"id":"p"}]}',
    ]

    reduced = keep_elements(FHIRVersion.R4, "Observation", ["subject"])(b"\n".join(lines))

    assert ["contained" in msgspec.json.decode(line) for line in reduced] == [True, False, False]
