import pytest

from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.fhirpath import compile_path, parse_expression

PATIENT = {
    "resourceType": "Patient",
    "deceasedBoolean": False,
    "name": [{"family": "A", "given": ["B", None, "C"]}, {"given": ["D"]}, None],
    "telecom": [
        {"system": "phone", "value": "1"},
        {"system": "email", "value": "2", "extension": [{"url": "u", "valueCode": "x"}]},
    ],
    "link": [
        {"other": {"reference": "Patient/a"}},
        {"other": {"reference": "RelatedPerson/b"}},
        {"other": {"type": "Patient", "identifier": {"value": "c"}}},
    ],
}


def compiled(expression):
    (path,) = parse_expression(expression)
    return compile_path(path, load_definitions(FHIRVersion.R4).elements("Patient"))


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        ("Patient.name.family", ["A"]),
        ("Patient.name.given", ["B", "C", "D"]),
        ("Patient.name[1].given", ["D"]),
        ("Patient.name[5].given", []),
        ("Patient.deceased", [False]),
        ("Patient.deceased.as(boolean)", [False]),
        ("Patient.deceased.as(dateTime)", []),
        ("Patient.deceased.exists()", [True]),
        ("Patient.deceased.exists() and Patient.deceased != false", [False]),
        ("Patient.telecom.where(system='phone').value", ["1"]),
        ("Patient.telecom.where(extension('u').exists()).value", ["2"]),
        ("Patient.telecom.extension('u').value", ["x"]),
        ("(Patient.contact | Patient.name.given).first()", ["B"]),
        ("Patient.photo", []),
    ],
)
def test_a_path_collects_its_values(expression, values):
    collected = []

    compiled(expression).collect(PATIENT, collected)

    assert collected == values


def test_a_reference_is_kept_by_its_text_or_else_by_its_type():
    path, collected = compiled("Patient.link.other.where(resolve() is Patient)"), []

    path.collect(PATIENT, collected)

    assert [PATIENT["link"].index({"other": reference}) for reference in collected] == [0, 2]
    assert path.target == "Patient"


def test_a_path_names_its_root_elements_types_and_group():
    path = compiled("Patient.deceased.as(dateTime)")

    assert path.elements == {"deceasedDateTime"}
    assert path.types == {"dateTime"}
    assert path.group == "deceased"


@pytest.mark.parametrize("version", [FHIRVersion.R4, FHIRVersion.R6])
def test_a_choice_reads_all_its_elements_in_every_version(version):
    (path,) = parse_expression("Patient.deceased")
    elements = load_definitions(version).elements("Patient")

    assert compile_path(path, elements).elements == {"deceasedBoolean", "deceasedDateTime"}


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("Patient.link.other.resolve().name", "leads into another resource"),
        ("Patient.shoe", "no element shoe"),
        ("Patient.deceased.as(Quantity)", "no element deceased of type Quantity"),
        ("(Patient.name | Patient.contact).first().given", "no step may follow"),
        ("Patient.name.exists().given", "Exists is not supported"),
    ],
)
def test_a_path_that_cannot_be_followed_is_refused(expression, reason):
    with pytest.raises(ValueError, match=reason):
        compiled(expression)
