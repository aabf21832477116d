"""Links are rewritten where the element's type says that they are links, and nowhere else."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.errors import InvalidResource
from helios_core.fhir.definitions import FHIRVersion, load_definitions, load_link_tables
from helios_core.fhir.links import BundleLinks, is_temporary, rewrite_links, rewrite_search_value

UUID = "urn:uuid:8dc6cf13-8c1e-4ac6-8d4a-6b2d4d0b6c1f"
OID = "urn:oid:1.2.36.146"
LOST = "urn:uuid:00000000-8c1e-4ac6-8d4a-6b2d4d0b6c1f"
OTHER = "urn:oid:2.16.840.1"
TARGETS = {
    UUID: "Binary/b",
    OID: "Group/g",
    "http://other.example/fhir/Patient/1": "Patient/new",
    "http://other.example/fhir/Patient/kept": "Patient/kept",
}
LINKS = BundleLinks(TARGETS)
R4 = FHIRVersion.R4


def rewritten(resource, links=LINKS, version=R4):
    body = msgspec.json.encode(resource)
    text, unresolved = rewrite_links(body, version, resource["resourceType"], links)
    return json.loads(text), unresolved


def resource(type_, **elements):
    return {"resourceType": type_, **elements}


@pytest.mark.parametrize("version", FHIRVersion)
@pytest.mark.parametrize(
    ("type_", "make"),
    [
        ("Observation", lambda link: {"subject": {"reference": link}}),
        ("Observation", lambda link: {"component": [{"extension": [{"valueUri": link}]}]}),
        ("Observation", lambda link: {"performer": [{"reference": link}, {"reference": link}]}),
        ("Patient", lambda link: {"photo": [{"title": "x"}, {"url": link}]}),
        ("Patient", lambda link: {"meta": {"source": link}}),
        ("Patient", lambda link: {"implicitRules": link}),
        ("Patient", lambda link: {"identifier": [{"system": link, "value": "1"}]}),
        ("Patient", lambda link: {"identifier": [{"system": "urn:oid:1"}, {"system": link}]}),
        ("Patient", lambda link: {"identifier": [{"system": OTHER}], "photo": [{"url": link}]}),
        ("Patient", lambda link: {"extension": [{"url": "x", "valueUrl": link}]}),
        ("Patient", lambda link: {"extension": [{"url": "x", "valueOid": link}]}),
        ("Patient", lambda link: {"modifierExtension": [{"url": "x", "valueUuid": link}]}),
        ("Patient", lambda link: {"extension": [{"extension": [{"valueUri": link}]}]}),
        ("Patient", lambda link: {"_birthDate": {"extension": [{"valueUri": link}]}}),
        (
            "Patient",
            lambda link: {"name": [{"_given": [None, {"extension": [{"valueUrl": link}]}]}]},
        ),
        ("Patient", lambda link: {"contained": [resource("Patient", photo=[{"url": link}])]}),
        ("DocumentReference", lambda link: {"content": [{"attachment": {"url": link}}]}),
        ("DocumentReference", lambda link: {"identifier": [{"assigner": {"reference": link}}]}),
        ("Parameters", lambda link: {"parameter": [{"name": "a", "valueUri": link}]}),
        (
            "Parameters",
            lambda link: {
                "parameter": [
                    {"part": [{"resource": resource("Basic", subject={"reference": link})}]}
                ]
            },
        ),
        ("Questionnaire", lambda link: {"url": link}),
        ("ValueSet", lambda link: {"compose": {"include": [{"system": link}]}}),
        ("Endpoint", lambda link: {"address": link}),
        ("Provenance", lambda link: {"policy": [link, "http://a.example"]}),
    ],
)
def test_a_link_of_any_kind_of_element_becomes_a_real_one(version, type_, make):
    changed, unresolved = rewritten(resource(type_, **make(UUID)), version=version)

    assert changed == resource(type_, **make("Binary/b"))
    assert unresolved == set()


@pytest.mark.parametrize(
    ("type_", "elements"),
    [
        ("Patient", {"meta": {"profile": [UUID]}}),
        ("Patient", {"name": [{"text": UUID}]}),
        ("Patient", {"identifier": [{"value": UUID}]}),
        ("Patient", {"extension": [{"url": UUID, "valueString": UUID}]}),
        ("Patient", {"extension": [{"valueCanonical": UUID}, {"valueCode": UUID}]}),
        ("Patient", {"extension": [{"valueMarkdown": f"[x]({UUID})"}]}),
        ("CarePlan", {"instantiatesCanonical": [UUID]}),
        ("Questionnaire", {"derivedFrom": [UUID]}),
        ("Patient", {"text": {"div": f"<div>{UUID} href='{UUID}'</div>"}}),
        ("Patient", {"contained": [resource("Patient", name=[{"family": UUID}])]}),
        (
            "Parameters",
            {"parameter": [{"resource": resource("Bundle", entry=[{"fullUrl": UUID}])}]},
        ),
        ("Bundle", {"link": [{"url": UUID}], "entry": [{"fullUrl": UUID}]}),
    ],
)
def test_what_is_no_link_is_left_alone(type_, elements):
    assert rewritten(resource(type_, **elements)) == (resource(type_, **elements), set())


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('<a href="{}">x</a>', '<a href="Binary/b">x</a>'),
        ("<img alt='x' src='{}'/>", "<img alt='x' src='Binary/b'/>"),
        ('<A class="x"\n HREF = "{}#p">x</A>', '<A class="x"\n HREF = "Binary/b#p">x</A>'),
        ('é 𝄞 <a href="{0}">{0}</a> é', 'é 𝄞 <a href="Binary/b">{0}</a> é'),
        (
            '<a href="{0}"/><b href="{0}"/><a name="{0}"/>',
            '<a href="Binary/b"/><b href="{0}"/><a name="{0}"/>',
        ),
        ('<a data-href="{0}"/><link href="{0}"/>', '<a data-href="{0}"/><link href="{0}"/>'),
    ],
)
@pytest.mark.parametrize("section", [False, True])
def test_links_in_narrative_are_those_of_anchors_and_images(written, read, section):
    def composition(text):
        narrative = {"text": {"status": "generated", "div": f"<div>{text.format(UUID)}</div>"}}
        return resource("Composition", **({"section": [narrative]} if section else narrative))

    assert rewritten(composition(written)) == (composition(read), set())


def test_narrative_keeps_its_spelling_around_a_link():
    div = rb"\u003cdiv\u003e\ud834\udd1e \u00e9 \/ \"<a href=\"%b\">\t<\/a>"
    body = b'{"resourceType":"Patient","text":{"div":"%b"}}'

    text, _ = rewrite_links(body % (div % UUID.encode()), R4, "Patient", LINKS)

    assert text == body % (div % b"Binary/b")


@pytest.mark.parametrize(
    "spelling",
    [
        "URN:UUID:8dc6cf13-8c1e-4ac6-8d4a-6b2d4d0b6c1f",
        "urn:uuid:8DC6CF13-8C1E-4AC6-8D4A-6B2D4D0B6C1F",
        "Urn:Uuid:8dC6cf13-8c1e-4ac6-8d4a-6b2d4d0b6c1f",
    ],
)
def test_the_case_of_a_uuid_does_not_matter_on_either_side(spelling):
    for defined, used in ((UUID, spelling), (spelling, UUID)):
        links = BundleLinks({defined: "Patient/p"})
        changed, unresolved = rewritten(
            resource("Observation", subject={"reference": used}), links=links
        )
        assert changed["subject"] == {"reference": "Patient/p"}
        assert unresolved == set()


@pytest.mark.parametrize("escaped", [rb"\u0075rn:uuid:1", rb"urn\u003auuid\u003A1", b"urn:uuid:1"])
def test_escapes_do_not_hide_a_link(escaped):
    links = BundleLinks({"urn:uuid:1": "Patient/p"})
    body = b'{"subject":{"display":"\\u00e9","reference":"%b"},"x":1.10}'

    text, _ = rewrite_links(body % escaped, R4, "Observation", links)

    assert text == body % b"Patient/p"


@pytest.mark.parametrize(
    ("full_url", "link", "target"),
    [
        (None, "http://other.example/fhir/Patient/1", "Patient/new"),
        (UUID, "http://other.example/fhir/Patient/1/_history/3", "Patient/new"),
        (None, "http://other.example/fhir/Patient/1#name", "Patient/new#name"),
        ("http://other.example/fhir/Observation/9", "Patient/1", "Patient/new"),
        ("http://other.example/fhir/Observation/9/_history/1", "Patient/1", "Patient/new"),
        ("http://other.example/fhir/Observation/9", "Patient/1/_history/3", "Patient/new"),
        (
            "http://other.example/fhir/Observation/9",
            "http://other.example/fhir/Patient/1",
            "Patient/new",
        ),
        ("http://other.example/fhir/Observation/9", UUID, "Binary/b"),
        ("http://other.example/fhir/Observation/9", "Patient/2", "Patient/2"),
        (
            "http://other.example/fhir/Observation/9",
            "Patient/kept/_history/2",
            "Patient/kept/_history/2",
        ),
        ("http://third.example/fhir/Observation/9", "Patient/1", "Patient/1"),
        (UUID, "Patient/1", "Patient/1"),
        (None, "Patient/1", "Patient/1"),
        (None, "http://other.example/fhir/Patient/2", "http://other.example/fhir/Patient/2"),
        (None, "#contained", "#contained"),
    ],
)
def test_links_resolve_by_the_full_url_of_their_own_entry(full_url, link, target):
    links = LINKS.of_entry(full_url)

    changed, unresolved = rewritten(
        resource("Observation", subject={"reference": link}), links=links
    )

    assert changed["subject"] == {"reference": target}
    assert unresolved == set()


def test_a_slash_may_be_escaped():
    body = rb'{"subject":{"reference":"%b"}}'
    links = LINKS.of_entry("http://other.example/fhir/Observation/9")

    for link in (rb"Patient\/1", rb"http:\/\/other.example\/fhir\/Patient\/1"):
        text, _ = rewrite_links(body % link, R4, "Observation", links)
        assert text == body % b"Patient/new"


def test_links_that_lead_nowhere_are_kept_and_reported():
    lost = [f"{LOST[:-1]}{digit}" for digit in "12345"]
    observation = resource(
        "DocumentReference",
        subject={"reference": lost[0]},
        content=[{"attachment": {"url": lost[1]}}],
        text={"div": f'<div><a href="{lost[2]}">x</a></div>'},
        implicitRules=lost[3],
        identifier=[{"system": "urn:oid:1.2.3"}],
    )

    assert rewritten(observation) == (observation, set(lost[:3]))


def test_numbers_and_escapes_keep_their_text():
    body = (
        rb'{"resourceType":"Observation","valueQuantity":{"value":1.10,"x":-0,"y":1e400},'
        rb'"note":[{"text":"\u00e9\/"}],"z":123456789012345678901,"subject":{"reference":"%b"}}'
    )

    text, _ = rewrite_links(body % UUID.encode(), R4, "Observation", LINKS)

    assert text == body % b"Binary/b"


def test_a_target_cannot_break_out_of_its_string():
    links = BundleLinks({UUID: 'Patient/"><x'})
    div = f'<a href="{UUID}">x</a>'

    changed, _ = rewritten(
        resource("Patient", link=[{"other": {"reference": UUID}}], text={"div": div}), links=links
    )

    assert changed["link"] == [{"other": {"reference": 'Patient/"><x'}}]
    assert changed["text"]["div"] == '<a href="Patient/&quot;&gt;&lt;x">x</a>'


def test_unknown_elements_hold_references_all_the_same():
    inner = {"party": {"reference": UUID}, "reference": {"reference": UUID}}

    changed, _ = rewritten(resource("Patient", strange=[inner]))

    assert changed["strange"] == [
        {"party": {"reference": "Binary/b"}, "reference": {"reference": "Binary/b"}}
    ]


def test_text_that_is_no_text_is_refused_here_or_left_for_parsing_to_refuse():
    body = b'{"subject":{"reference":"%b"}}'
    not_utf8 = body % b"urn:uuid:\xff"

    assert rewrite_links(not_utf8, R4, "Observation", LINKS) == (not_utf8, set())
    with pytest.raises(InvalidResource, match="surrogate"):
        rewrite_links(body % rb"urn:uuid:\ud800", R4, "Observation", LINKS)


def test_an_ambiguous_object_on_the_way_to_a_link_is_refused():
    body = f'{{"subject":{{"reference":"{UUID}","reference":"{LOST}"}}}}'.encode()

    with pytest.raises(InvalidResource, match="two members with the same name"):
        rewrite_links(body, R4, "Observation", LINKS)


def test_a_body_nested_too_deeply_is_refused():
    body = b'{"a":' * 300 + f'"{UUID}"'.encode() + b"}" * 300

    with pytest.raises(InvalidResource, match="levels deep"):
        rewrite_links(body, R4, "Patient", LINKS)


def test_links_in_a_search_are_rewritten_value_by_value():
    assert rewrite_search_value(f"{UUID.upper()},Patient/x,a\\,b", LINKS) == (
        "Binary/b,Patient/x,a\\,b",
        set(),
    )
    assert rewrite_search_value(LOST, LINKS) == (LOST, {LOST})


@pytest.mark.parametrize(
    ("link", "temporary"),
    [(UUID, True), (OID.upper(), True), ("urn:x:1", False), ("x urn:uuid:1", False), ("", False)],
)
def test_temporary_links_are_urns_of_two_kinds(link, temporary):
    assert is_temporary(link) is temporary


@pytest.mark.parametrize("version", FHIRVersion)
def test_the_tables_are_closed_and_cover_every_type(version):
    tables = load_link_tables(version)
    leaves = {"uri", "url", "oid", "uuid", "xhtml", "reference", "Resource"}

    assert {child for table in tables.values() for child in table.values()} <= leaves | set(tables)
    assert load_definitions(version).types - set(tables) == {"Bundle"}
    assert tables["Observation"]["subject"] == "Reference"
    assert "profile" not in tables["Meta"]


@pytest.mark.parametrize("version", FHIRVersion)
def test_names_that_are_skipped_before_the_walk_are_never_followed(version):
    children = load_link_tables(version).values()

    for name in ("system", "value"):
        assert not {table.get(name) for table in children} & {"reference", "url", "xhtml"}


@pytest.mark.parametrize("version", FHIRVersion)
def test_the_tables_agree_with_the_root_elements(version):
    tables = load_link_tables(version)
    for type_, elements in load_definitions(version).root_elements.items():
        for name, element in elements.items() if type_ != "Bundle" else ():
            for of in {"uri", "url", "oid", "uuid", "Reference"} & set(element.types):
                suffix = of[:1].upper() + of[1:] if name.endswith("[x]") else ""
                assert tables[type_][name.removesuffix("[x]") + suffix] == of


@given(
    st.recursive(
        st.sampled_from([UUID, LOST, "Patient/p", '"', "\\", "{", ",", "1.10"])
        | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["reference", "text", '"reference', "a"]), inner)
        ),
        max_leaves=12,
    )
)
def test_in_unknown_elements_exactly_the_reference_members_are_rewritten(tree):
    def expected(node, name=None):
        if isinstance(node, dict):
            return {key: expected(value, key) for key, value in node.items()}
        if isinstance(node, list):
            return [expected(item, name) for item in node]
        return "Binary/b" if name == "reference" and node == UUID else node

    changed, unresolved = rewritten(resource("Basic", unknown=tree))

    assert changed["unknown"] == expected(tree)
    assert unresolved <= {LOST}
