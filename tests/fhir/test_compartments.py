import pytest

from helios_core.fhir.compartments import compartment_paths, patients_of, reference_paths
from helios_core.fhir.definitions import (
    Definitions,
    FHIRVersion,
    SearchParameter,
    load_definitions,
)

# R6 is measured by R5's compartment definition: what it renamed or dropped since has no path.
WITHOUT_PATH = {
    (FHIRVersion.R6, "AllergyIntolerance", "participant"),
    (FHIRVersion.R6, "Condition", "participant-actor"),
    (FHIRVersion.R6, "MolecularSequence", "subject"),
}
BY_REFERENCE = {"reference": "Patient/a"}


def every_parameter():
    for version in FHIRVersion:
        for resource_type, codes in load_definitions(version).compartments["Patient"].items():
            for code in codes:
                yield version, resource_type, code


def nested(path, value):
    for key in reversed(path):
        value = {key: value}
    return value


def test_every_parameter_of_every_definition_leads_somewhere_but_for_the_named_ones():
    without = {
        (version, resource_type, code)
        for version, resource_type, code in every_parameter()
        if not reference_paths(load_definitions(version), "Patient", resource_type, code=code)
    }

    assert without == WITHOUT_PATH


@pytest.mark.parametrize("version", FHIRVersion)
def test_every_path_begins_at_an_element_of_its_type_and_finds_its_patient(version):
    for resource_type, paths in compartment_paths(version).items():
        elements = load_definitions(version).elements(resource_type)
        for path in paths:
            choice = f"{path[0].removesuffix('Reference')}[x]"
            resource = {"resourceType": resource_type, **nested(path, "Patient/a")}

            assert path[0] in elements or choice in elements, (resource_type, path)
            assert path[-1] == "reference"
            assert patients_of(resource, version) == ("a",)


@pytest.mark.parametrize("version", FHIRVersion)
def test_a_type_outside_the_compartment_belongs_to_nobody(version):
    for resource_type in load_definitions(version).types - load_definitions(
        version
    ).compartment_types("Patient"):
        resource = {
            "resourceType": resource_type,
            "subject": BY_REFERENCE,
            "patient": BY_REFERENCE,
        }

        assert patients_of(resource, version) == ()


@pytest.mark.parametrize(
    ("version", "resource", "patients"),
    [
        ("R4", {"resourceType": "Observation", "subject": BY_REFERENCE}, ("a",)),
        ("R4", {"resourceType": "Observation", "focus": [BY_REFERENCE]}, ()),
        ("R4", {"resourceType": "Observation", "performer": [{}, BY_REFERENCE]}, ("a",)),
        ("R4", {"resourceType": "AuditEvent", "agent": [{"who": BY_REFERENCE}]}, ("a",)),
        ("R4", {"resourceType": "AuditEvent", "entity": [{"what": BY_REFERENCE}]}, ("a",)),
        (
            "R4",
            {"resourceType": "CarePlan", "activity": [{"detail": {"performer": [BY_REFERENCE]}}]},
            ("a",),
        ),
        ("R5", {"resourceType": "NutritionIntake", "reportedReference": BY_REFERENCE}, ("a",)),
        ("R5", {"resourceType": "NutritionIntake", "reportedBoolean": True}, ()),
        (
            "R5",
            {
                "resourceType": "RequestOrchestration",
                "action": [{"participant": [{"actorReference": BY_REFERENCE}]}],
            },
            ("a",),
        ),
        (
            "R4",
            {
                "resourceType": "Group",
                "member": [{"entity": {"reference": f"Patient/{name}"}} for name in "cab"],
            },
            ("a", "b", "c"),
        ),
    ],
)
def test_references_count_where_the_definition_says(version, resource, patients):
    assert patients_of(resource, FHIRVersion(version)) == patients


@pytest.mark.parametrize("version", FHIRVersion)
def test_a_patient_is_in_its_own_compartment_and_in_those_it_links_to(version):
    patient = {
        "resourceType": "Patient",
        "id": "b",
        "link": [{"other": BY_REFERENCE}, {"other": {"reference": "RelatedPerson/r"}}],
    }

    assert patients_of(patient, version) == ("a", "b")


@pytest.mark.parametrize(
    ("reference", "patients"),
    [
        ("Patient/a", ("a",)),
        ("Patient/a/_history/2", ("a",)),
        ("https://fhir.example.org/base/Patient/a", ("a",)),
        ("https://fhir.example.org/base/Patient/a/_history/2", ("a",)),
        ("https://elsewhere.example.org/base/Patient/a", ()),
        ("Group/a", ()),
        ("#a", ()),
        ("#Patient/a", ()),
        ("urn:uuid:8dc6cf13-8c1e-4ac6-8d4a-6b2d4d0b6c1f", ()),
        ("Patient/", ()),
        ("Patient/a b", ()),
        ("Patient?identifier=a", ()),
        ("SubPatient/a", ()),
        ("", ()),
    ],
)
def test_only_literal_references_to_patients_here_count(reference, patients):
    resource = {"resourceType": "Condition", "subject": {"reference": reference}}

    assert patients_of(resource, FHIRVersion.R4, ("https://fhir.example.org/base/",)) == patients


@pytest.mark.parametrize(
    "subject",
    [
        {"identifier": {"system": "urn:x", "value": "Patient/a"}, "type": "Patient"},
        {"reference": None},
        {"reference": 7},
        {"reference": ["Patient/a", {"reference": "Patient/a"}]},
        "Patient/a",
        None,
    ],
)
def test_what_is_not_a_literal_reference_is_passed_over(subject):
    resource = {"resourceType": "Condition", "subject": subject}

    assert patients_of(resource, FHIRVersion.R4) == (
        ("a",) if isinstance(subject, dict) and isinstance(subject.get("reference"), list) else ()
    )


def test_a_patient_named_twice_counts_once():
    resource = {
        "resourceType": "Observation",
        "subject": BY_REFERENCE,
        "performer": [BY_REFERENCE],
    }

    assert patients_of(resource, FHIRVersion.R4) == ("a",)


def definitions_with(expression):
    parameter = SearchParameter(
        code="x", type="reference", base=("Flag",), url="urn:x", expression=expression
    )
    return Definitions(
        label="0.0.0",
        release="0.0",
        root_elements=load_definitions(FHIRVersion.R4).root_elements,
        compartments={"Patient": {"Flag": ("x",)}},
        parameters=(parameter,),
    )


@pytest.mark.parametrize(
    ("expression", "paths"),
    [
        ("Flag.subject", (("subject", "reference"),)),
        ("Flag.subject.as(Reference)", (("subjectReference", "reference"),)),
        ("Flag.subject.ofType(Reference)", (("subjectReference", "reference"),)),
        ("(Flag.subject as Reference)", (("subjectReference", "reference"),)),
        (
            "(Flag.subject as Reference).where(resolve() is Patient)",
            (("subjectReference", "reference"),),
        ),
        ("Flag.subject.where(resolve() is Device)", ()),
        ("Flag.subject.as(CodeableConcept)", ()),
        (
            "Goal.subject | Flag.author|Flag.subject",
            (("author", "reference"), ("subject", "reference")),
        ),
        (None, ()),
    ],
)
def test_expressions_become_paths(expression, paths):
    assert reference_paths(definitions_with(expression), "Patient", "Flag", code="x") == paths


def test_an_unsuffixed_choice_is_followed_to_its_reference():
    base = definitions_with("Group.member")
    definitions = Definitions(
        label=base.label,
        release=base.release,
        root_elements={
            "Group": {"member[x]": load_definitions(FHIRVersion.R4).elements("Group")["member"]}
        },
        compartments=base.compartments,
        parameters=(
            SearchParameter(
                code="x", type="reference", base=("Group",), url="urn:x", expression="Group.member"
            ),
        ),
    )

    assert reference_paths(definitions, "Patient", "Group", code="x") == (
        ("memberReference", "reference"),
    )


@pytest.mark.parametrize(
    "expression", ["Flag.subject.where(type='x')", "Flag.subject.first()", "Flag.subject[0]"]
)
def test_an_expression_that_cannot_be_followed_is_refused_rather_than_half_read(expression):
    with pytest.raises(ValueError, match="is not supported in a compartment"):
        reference_paths(definitions_with(expression), "Patient", "Flag", code="x")
