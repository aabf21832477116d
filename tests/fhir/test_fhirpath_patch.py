"""FHIRPath Patch (FHIR R4, fhirpatch.html)."""

import json

import pytest

from helios_core.errors import InvalidResource, PatchFailed, TooCostly
from helios_core.fhir.definitions import FHIRVersion, load_definitions, load_shapes
from helios_core.fhir.fhirpath_patch import MAX_OPERATIONS, parse_fhirpath_patch

BASE = {
    "resourceType": "Patient",
    "id": "a",
    "deceasedBoolean": True,
    "birthDate": "1970-01-01",
    "_birthDate": {"extension": [{"url": "http://x", "valueString": "y"}]},
    "name": [{"family": "Low", "given": ["Ann", "Bea"]}, {"use": "old", "family": "High"}],
    "identifier": [
        {"system": "http://a", "value": "1", "use": "usual"},
        {"system": "http://b", "value": "2", "use": "usual"},
    ],
    "contact": [{"name": {"text": "Mum"}}],
    "extension": [{"url": "http://u", "valueString": "x"}, {"url": "http://v", "valueCode": "y"}],
}


def op(type_, path, **parts):
    def part(name, value):
        if isinstance(value, dict):
            return {"name": name, **value}
        return {"name": name, "valueInteger" if isinstance(value, int) else "valueString": value}

    listed = [
        part("type", type_) | {},
        part("path", path),
        *(part(*each) for each in parts.items()),
    ]
    return {"name": "operation", "part": listed}


def parsed(*operations):
    return parse_fhirpath_patch(
        json.dumps({"resourceType": "Parameters", "parameter": operations}).encode()
    )


def patched(*operations, base=BASE, version=FHIRVersion.R4):
    return json.loads(parsed(*operations).apply(json.dumps(base).encode(), version))


def text(value):
    return {"valueString": value}


@pytest.mark.parametrize("version", FHIRVersion)
@pytest.mark.parametrize(
    ("operation", "changed"),
    [
        (op("add", "Patient", name="gender", value={"valueCode": "male"}), {"gender": "male"}),
        (op("add", "Patient", name="active", value={"valueBoolean": False}), {"active": False}),
        (
            op("add", "Patient", name="telecom", value={"valueContactPoint": {"value": "1"}}),
            {"telecom": [{"value": "1"}]},
        ),
        (
            op("add", "Patient", name="identifier", value={"valueIdentifier": {"value": "3"}}),
            {"identifier": [*BASE["identifier"], {"value": "3"}]},
        ),
        (
            op("add", "Patient.name[0]", name="given", value=text("Cid")),
            {"name": [{"family": "Low", "given": ["Ann", "Bea", "Cid"]}, BASE["name"][1]]},
        ),
        (
            op("add", "Patient.name[1]", name="given", value=text("Cid")),
            {"name": [BASE["name"][0], BASE["name"][1] | {"given": ["Cid"]}]},
        ),
        (
            op("add", "Patient.contact[0].name", name="given", value=text("Cid")),
            {"contact": [{"name": {"text": "Mum", "given": ["Cid"]}}]},
        ),
        (
            op(
                "add",
                "Patient",
                name="contact",
                value={
                    "part": [
                        {"name": "name", "valueHumanName": {"text": "Dad"}},
                        {"name": "telecom", "valueContactPoint": {"value": "1"}},
                        {"name": "telecom", "valueContactPoint": {"value": "2"}},
                    ]
                },
            ),
            {
                "contact": [
                    *BASE["contact"],
                    {"name": {"text": "Dad"}, "telecom": [{"value": "1"}, {"value": "2"}]},
                ]
            },
        ),
        (
            op(
                "add",
                "Patient.extension('http://u')",
                name="extension",
                value={"valueExtension": {"url": "http://w"}},
            ),
            {
                "extension": [
                    BASE["extension"][0] | {"extension": [{"url": "http://w"}]},
                    BASE["extension"][1],
                ]
            },
        ),
        (
            op("insert", "Patient.identifier", index=1, value={"valueIdentifier": {"value": "n"}}),
            {"identifier": [BASE["identifier"][0], {"value": "n"}, BASE["identifier"][1]]},
        ),
        (
            op("insert", "Patient.name[0].given", index=0, value=text("Zed")),
            {"name": [{"family": "Low", "given": ["Zed", "Ann", "Bea"]}, BASE["name"][1]]},
        ),
        (op("delete", "Patient.contact[0].name.text"), {"contact": None}),
        (op("delete", "Patient.birthDate"), {"birthDate": None, "_birthDate": None}),
        (op("delete", "Patient.gender"), {}),
        (op("delete", "Patient.deceased"), {"deceasedBoolean": None}),
        (op("delete", "Patient.identifier[0]"), {"identifier": BASE["identifier"][1:]}),
        (
            op("delete", "Patient.identifier.where(system = 'http://b')"),
            {"identifier": BASE["identifier"][:1]},
        ),
        (
            op("delete", "Patient.identifier.where(use='usual' and value='1')"),
            {"identifier": BASE["identifier"][1:]},
        ),
        (op("delete", "identifier.first()"), {"identifier": BASE["identifier"][1:]}),
        (op("delete", "Patient.identifier.last()"), {"identifier": BASE["identifier"][:1]}),
        (op("delete", "Patient.extension('http://u')"), {"extension": BASE["extension"][1:]}),
        (
            op("replace", "Patient.birthDate", value={"valueDate": "1971"}),
            {"birthDate": "1971", "_birthDate": None},
        ),
        (
            op("replace", "Patient.deceased", value={"valueDateTime": "2020"}),
            {"deceasedBoolean": None, "deceasedDateTime": "2020"},
        ),
        (
            op("replace", "Patient.deceased.ofType(boolean)", value={"valueBoolean": False}),
            {"deceasedBoolean": False},
        ),
        (
            op("replace", "Patient.extension('http://u').value", value={"valueDecimal": 1}),
            {"extension": [{"url": "http://u", "valueDecimal": 1}, BASE["extension"][1]]},
        ),
        (
            op("replace", "Patient.name.where(use = 'old').family", value=text("New")),
            {"name": [BASE["name"][0], {"use": "old", "family": "New"}]},
        ),
        (
            op("replace", "Patient.name[0].given[1]", value=text("Cid")),
            {"name": [{"family": "Low", "given": ["Ann", "Cid"]}, BASE["name"][1]]},
        ),
        (
            op("move", "Patient.identifier", source=1, destination=0),
            {"identifier": BASE["identifier"][::-1]},
        ),
    ],
)
def test_operations_change_what_their_path_selects(operation, changed, version):
    expected = {name: value for name, value in (BASE | changed).items() if value is not None}

    assert patched(operation, version=version) == expected


@pytest.mark.parametrize(
    "operation",
    [
        op("add", "Patient", name="birthDate", value={"valueDate": "2000"}),
        op("add", "Patient", name="deceased", value={"valueDateTime": "2000"}),
        op("add", "Patient.identifier", name="use", value={"valueCode": "x"}),
        op("add", "Patient.birthDate", name="x", value=text("x")),
        op("add", "Patient.photo", name="title", value=text("x")),
        op("add", "Patient", name="a b", value=text("x")),
        op(
            "add",
            "Patient",
            name="contact",
            value={
                "part": [
                    {"name": "name", "valueHumanName": {}},
                    {"name": "name", "valueHumanName": {}},
                ]
            },
        ),
        op("add", "Patient", name="deceased", value={"part": [text("x") | {"name": "y"}]}),
        op("replace", "Patient.gender", value={"valueCode": "x"}),
        op("replace", "Patient.identifier", value=text("x")),
        op("replace", "Patient.identifier.where(system)", value=text("x")),
        op("replace", "Patient.identifier.where(system = x)", value=text("x")),
        op("replace", "Patient.identifier.extension(x)", value=text("x")),
        op("replace", "Patient.identifier.matches('x')", value=text("x")),
        op("replace", "Patient..identifier", value=text("x")),
        op("replace", "Patient identifier", value=text("x")),
        op("replace", "Observation.identifier", value=text("x")),
        op("delete", "Patient.name"),
        op("delete", "Patient"),
        op("delete", "Resource"),
        op("delete", "Patient.ofType(Patient)"),
        op("delete", "Patient.where(resourceType = 'Patient')"),
        op("insert", "Patient.identifier", index=3, value=text("x")),
        op("insert", "Patient.birthDate", index=0, value=text("x")),
        op("insert", "Patient.name[0]", index=0, value=text("x")),
        op("move", "Patient.identifier", source=0, destination=2),
        op("move", "Patient.photo", source=0, destination=0),
    ],
)
def test_what_does_not_fit_is_refused(operation):
    with pytest.raises(PatchFailed, match=r"^operation 0 "):
        patched(operation)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"resourceType":"Patient"}',
        b'{"resourceType":"Parameters","parameter":1}',
        b'{"resourceType":"Parameters","parameter":[1]}',
        b'{"resourceType":"Parameters","parameter":[{"name":"nix"}]}',
        b'{"resourceType":"Parameters","parameter":[{"name":"operation"}]}',
        b'{"resourceType":"Parameters","parameter":[{"name":"operation","part":[1]}]}',
        *(
            json.dumps({"resourceType": "Parameters", "parameter": [each]}).encode()
            for each in (
                op("nix", "Patient"),
                op("add", "Patient"),
                op("add", "Patient", name="gender"),
                op("add", "Patient", name="gender", value={}),
                op("insert", "Patient.name", value=text("x")),
                op("insert", "Patient.name", value=text("x"), index=-1),
                op("insert", "Patient.name", value=text("x"), index=text("x")),
                op("replace", "Patient.name"),
                op("move", "Patient.name", source=1),
                op("delete", ""),
                op("delete", 7),
            )
        ),
        json.dumps(
            {
                "resourceType": "Parameters",
                "parameter": [op("delete", "Patient.x")] * (MAX_OPERATIONS + 1),
            }
        ).encode(),
    ],
)
def test_what_is_no_patch_is_refused(body):
    with pytest.raises(InvalidResource):
        parse_fhirpath_patch(body)


def test_items_and_their_extensions_are_removed_together():
    base = {
        "resourceType": "Patient",
        "name": [{"given": ["a", "b"], "_given": [{"id": "1"}, {"id": "2"}]}],
    }

    assert patched(op("delete", "Patient.name[0].given[0]"), base=base)["name"] == [
        {"given": ["b"], "_given": [{"id": "2"}]}
    ]
    with pytest.raises(PatchFailed):
        patched(op("move", "Patient.name[0].given", source=0, destination=1), base=base)


@pytest.mark.parametrize(
    "path",
    [
        "Patient.name.where(family = 'x')",
        "Patient.name.extension('http://x')",
        "Patient.name.first().value.first()",
        "Patient.where(gender = 'x')",
        "Patient.name" + ".ofType(HumanName)" * 50 + ".given",
    ],
)
def test_what_paths_look_at_has_a_bound(path):
    base = {"resourceType": "Patient", "name": [{"family": "y"}] * 10_000}
    look = op("delete", path)

    assert patched(look, base=base) == base
    with pytest.raises(TooCostly, match="look at too much"):
        patched(*[look] * 2000, base=base)


def test_members_that_may_be_a_choice_are_looked_at_within_the_bound():
    base = {"resourceType": "Patient", **{f"a{number}": 1 for number in range(10_000)}}
    look = op("delete", "Patient.deceased")

    assert patched(look, base=base) == base
    with pytest.raises(TooCostly, match="look at too much"):
        patched(*[look] * 2000, base=base)


def test_numbers_keep_their_text():
    base = b'{"resourceType":"Observation","valueQuantity":{"value":1.10},"component":[]}'
    patch = parse_fhirpath_patch(
        b'{"resourceType":"Parameters","parameter":[{"name":"operation","part":['
        b'{"name":"type","valueCode":"add"},{"name":"path","valueString":"Observation"},'
        b'{"name":"name","valueString":"component"},{"name":"value","part":['
        b'{"name":"value","valueQuantity":{"value":2.00}}]}]}]}'
    )

    assert patch.apply(base, FHIRVersion.R4) == (
        b'{"resourceType":"Observation","valueQuantity":{"value":1.10},'
        b'"component":[{"valueQuantity":{"value":2.00}}]}'
    )


@pytest.mark.parametrize("version", FHIRVersion)
def test_the_tables_agree_with_the_root_elements(version):
    shapes = load_shapes(version)
    for type_, elements in load_definitions(version).root_elements.items():
        for name, element in elements.items():
            if element.max != "1" and name not in {"extension", "modifierExtension", "contained"}:
                assert shapes[type_][name].endswith("*")
