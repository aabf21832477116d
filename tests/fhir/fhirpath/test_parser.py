import pytest

from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.fhirpath.parser import (
    As,
    Child,
    Exists,
    Extension,
    FirstOf,
    HasExtension,
    Index,
    Is,
    Path,
    Resolve,
    Where,
    parse_expression,
)


@pytest.mark.parametrize(
    ("expression", "steps"),
    [
        ("Patient.name.family", (Child("name"), Child("family"))),
        ("Patient.deceased.as(dateTime)", (Child("deceased"), As("dateTime"))),
        ("Patient.deceased.ofType(dateTime)", (Child("deceased"), As("dateTime"))),
        ("(Patient.deceased as dateTime)", (Child("deceased"), As("dateTime"))),
        ("Patient.link.where(resolve() is Patient)", (Child("link"), Is("Patient"))),
        ("Patient.telecom.where(system='phone')", (Child("telecom"), Where("system", "phone"))),
        ("Patient.extension('u').value", (Extension("u"), Child("value"))),
        (
            "Patient.name.where(extension('u').exists())",
            (Child("name"), HasExtension("u")),
        ),
        ("Patient.contact[0].name", (Child("contact"), Index(0), Child("name"))),
        ("Patient.link.other.resolve()", (Child("link"), Child("other"), Resolve())),
        ("Patient.deceased.exists()", (Child("deceased"), Exists())),
        (
            "Patient.deceased.exists() and Patient.deceased != false",
            (Child("deceased"), Exists(not_false=True)),
        ),
    ],
)
def test_an_expression_becomes_the_steps_of_its_path(expression, steps):
    assert parse_expression(expression) == (Path(root="Patient", steps=steps),)


def test_a_union_becomes_several_paths_and_first_makes_them_one():
    paths = (Path("Patient", (Child("name"),)), Path("Patient", (Child("contact"),)))

    assert parse_expression("Patient.name | Patient.contact") == paths
    assert parse_expression("(Patient.name | Patient.contact).first()") == (
        Path("Patient", (FirstOf(paths),)),
    )


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "Patient.",
        "Patient.name.",
        "Patient.name(",
        "Patient.name + 1",
        "Patient.name.last()",
        "Patient.name[x]",
        "Patient.name.where(use)",
        "Patient.name.where(extension('u'))",
        "Patient.name.exists() and Patient.contact != false",
        "(Patient.name | Group.name).first()",
        "Patient.name Patient.contact",
    ],
)
def test_an_expression_beyond_the_published_ones_is_refused(expression):
    with pytest.raises(ValueError, match="unsupported FHIRPath"):
        parse_expression(expression)


@pytest.mark.parametrize("version", FHIRVersion)
def test_every_published_expression_is_parsed(version):
    for parameter in load_definitions(version).parameters:
        if parameter.expression:
            assert parse_expression(parameter.expression)
