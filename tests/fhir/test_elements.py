import pytest

from helios_core.fhir.definitions import FHIRVersion, table
from helios_core.fhir.elements import kept, mandatory, spelt_out

EVERY_TYPE = [(v, t) for v in FHIRVersion for t in sorted(table(v).types)]


@pytest.mark.parametrize("element", ["value", "value[x]"])
@pytest.mark.parametrize("version", FHIRVersion)
def test_a_choice_stands_for_every_type_it_may_have(version, element):
    names = spelt_out(version, "Observation", element)

    assert {"valueQuantity", "valueString", "valueCodeableConcept", "valueDateTime"} <= names
    assert all(name.startswith("value") for name in names)


@pytest.mark.parametrize("version", FHIRVersion)
def test_one_type_of_a_choice_stands_for_itself(version):
    assert spelt_out(version, "Observation", "valueQuantity") == {"valueQuantity"}


@pytest.mark.parametrize("version", FHIRVersion)
@pytest.mark.parametrize("element", ["birth", "bogus", "", "[x]", "value", "resourceType", "Id"])
def test_what_a_type_does_not_have_stands_for_nothing(version, element):
    assert spelt_out(version, "Patient", element) == frozenset()


def test_mandatory_choices_are_spelt_out():
    """B2-P-19"""
    for version in (FHIRVersion.R4, FHIRVersion.R4B):
        names = mandatory(version, "MedicationRequest")
        assert names >= {"medicationReference", "medicationCodeableConcept", "status", "intent"}


def test_r6_takes_mandatory_choices_from_r5():
    assert "occurrenceDateTime" in mandatory(FHIRVersion.R6, "Immunization")


@pytest.mark.parametrize(("version", "resource_type"), EVERY_TYPE)
def test_every_element_of_the_tables_can_be_asked_for(version, resource_type):
    elements = table(version).elements(resource_type)

    assert all(spelt_out(version, resource_type, element) for element in elements)
    assert {"id", "meta"} <= kept(version, resource_type, ())
