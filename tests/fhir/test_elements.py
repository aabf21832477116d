import pytest

from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.elements import (
    data_elements,
    json_names,
    kept_names,
    mandatory_names,
    summary_elements,
)

EVERY_TYPE = [(v, t) for v in FHIRVersion for t in sorted(load_definitions(v).types)]


@pytest.mark.parametrize("element", ["value", "value[x]"])
@pytest.mark.parametrize("version", FHIRVersion)
def test_a_choice_stands_for_every_type_it_may_have(version, element):
    names = json_names(version, "Observation", element)

    assert {"valueQuantity", "valueString", "valueCodeableConcept", "valueDateTime"} <= names
    assert all(name.startswith("value") for name in names)


@pytest.mark.parametrize("version", FHIRVersion)
def test_one_type_of_a_choice_stands_for_itself(version):
    assert json_names(version, "Observation", "valueQuantity") == {"valueQuantity"}


@pytest.mark.parametrize("version", FHIRVersion)
@pytest.mark.parametrize("element", ["birth", "bogus", "", "[x]", "value", "Id"])
def test_what_a_type_does_not_have_stands_for_nothing(version, element):
    assert json_names(version, "Patient", element) == frozenset()


@pytest.mark.parametrize("version", FHIRVersion)
def test_every_resource_has_its_type(version):
    assert json_names(version, "Patient", "resourceType") == {"resourceType"}


@pytest.mark.parametrize("version", FHIRVersion)
def test_a_summary_has_the_elements_that_the_specification_marks(version):
    summary = kept_names(version, "Patient", summary_elements(version, "Patient"))

    assert summary >= {"identifier", "name", "birthDate", "deceasedBoolean", "deceasedDateTime"}
    assert summary.isdisjoint({"text", "contact", "photo", "communication", "maritalStatus"})


@pytest.mark.parametrize(("version", "resource_type"), EVERY_TYPE)
def test_a_summary_names_elements_and_data_are_all_but_the_narrative(version, resource_type):
    elements = summary_elements(version, resource_type)
    everything = kept_names(
        version, resource_type, load_definitions(version).elements(resource_type)
    )

    assert elements
    assert kept_names(version, resource_type, elements) <= everything
    data = kept_names(version, resource_type, data_elements(version, resource_type))
    assert data == everything - {"text"}


def test_mandatory_choices_are_their_json_names():
    """B2-P-19"""
    for version in (FHIRVersion.R4, FHIRVersion.R4B):
        names = mandatory_names(version, "MedicationRequest")
        assert names >= {"medicationReference", "medicationCodeableConcept", "status", "intent"}


def test_r6_takes_mandatory_choices_from_r5():
    assert "occurrenceDateTime" in mandatory_names(FHIRVersion.R6, "Immunization")


@pytest.mark.parametrize(("version", "resource_type"), EVERY_TYPE)
def test_every_element_of_the_definitions_can_be_requested(version, resource_type):
    elements = load_definitions(version).elements(resource_type)

    assert all(json_names(version, resource_type, element) for element in elements)
    assert {"id", "meta"} <= kept_names(version, resource_type, ())
