import pytest

from helios_core.errors import InvalidParameter
from helios_core.fhir.definitions import FHIRVersion, load_definitions


@pytest.mark.parametrize(
    ("version", "release", "label"),
    [
        (FHIRVersion.R4, "4.0", "4.0.1"),
        (FHIRVersion.R4B, "4.3", "4.3.0"),
        (FHIRVersion.R5, "5.0", "5.0.0"),
        (FHIRVersion.R6, "6.0", "6.0.0-ballot2"),
    ],
)
def test_a_version_is_known_by_its_release_and_its_full_label(version, release, label):
    assert version.release == release
    assert load_definitions(version).label == label
    assert FHIRVersion.from_media_type_parameter(release) is version
    assert FHIRVersion.from_media_type_parameter(label) is version


@pytest.mark.parametrize("text", ["", "4", "R4", "3.0", "4.00", "4.1", "latest", "4.0 "])
def test_any_other_number_is_refused_with_those_that_are_supported(text):
    with pytest.raises(InvalidParameter, match=r"one of 4\.0, 4\.3, 5\.0, 6\.0"):
        FHIRVersion.from_media_type_parameter(text)


def test_an_unpublished_patch_release_is_refused_with_the_nearest_one():
    with pytest.raises(InvalidParameter, match=r"did you mean 4\.0"):
        FHIRVersion.from_media_type_parameter("4.0.9")


@pytest.mark.parametrize("version", FHIRVersion)
def test_types_are_concrete_and_include_those_that_are_not_domain_resources(version):
    types = load_definitions(version).types

    assert {"Patient", "Observation", "Binary", "Bundle", "Parameters"} <= types
    assert types.isdisjoint({"Resource", "DomainResource", "CanonicalResource"})


def test_types_differ_between_versions():
    assert "DeviceUseStatement" in load_definitions(FHIRVersion.R4).types
    assert "DeviceUseStatement" not in load_definitions(FHIRVersion.R5).types
    assert (
        "InventoryItem"
        in load_definitions(FHIRVersion.R5).types - load_definitions(FHIRVersion.R4B).types
    )


def test_elements_say_what_is_mandatory_repeats_and_is_in_the_summary():
    elements = load_definitions(FHIRVersion.R4).elements("Observation")

    assert (elements["status"].min, elements["status"].max) == (1, "1")
    assert elements["category"].max == "*"
    assert elements["code"].summary
    assert not elements["note"].summary
    assert "Quantity" in elements["value[x]"].types


@pytest.mark.parametrize("version", FHIRVersion)
def test_search_parameters_of_a_type_include_those_of_every_resource(version):
    parameters = {p.code: p for p in load_definitions(version).search_parameters("Observation")}

    assert {"_id", "_lastUpdated", "code", "subject", "patient", "value-quantity"} <= set(
        parameters
    )
    assert parameters["code"].type == "token"
    assert "Patient" in parameters["subject"].target
    assert len(parameters["code-value-quantity"].component) == 2


@pytest.mark.parametrize("version", FHIRVersion)
def test_every_compartment_type_is_a_type_of_the_version(version):
    definitions = load_definitions(version)

    assert set(definitions.compartments) == {
        "Device",
        "Encounter",
        "Patient",
        "Practitioner",
        "RelatedPerson",
    }
    for compartment in definitions.compartments:
        assert definitions.compartment_types(compartment) <= definitions.types
        assert compartment in definitions.compartment_types(compartment)


def test_the_patient_compartment_leaves_out_what_is_about_nobody():
    types = load_definitions(FHIRVersion.R4).compartment_types("Patient")

    assert {"Patient", "Observation", "Condition", "Encounter"} <= types
    assert types.isdisjoint({"Organization", "Practitioner", "Medication", "Location", "Device"})


def test_definitions_are_read_once():
    assert load_definitions(FHIRVersion.R5) is load_definitions(FHIRVersion.R5)
