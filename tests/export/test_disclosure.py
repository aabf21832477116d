"""Every type of every FHIR version that can hold several patients is decided about."""

import pytest

from helios_core.export.disclosure import GROUP, PATIENT
from helios_core.fhir.compartments import SUBJECTS, subject_paths
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from tests.shared_resources import shared_types

PARTS = {
    *("activity", "asserter", "attester", "author", "focus", "informationProvider", "operation"),
    *("party", "patient", "payee", "payor", "paymentBy", "performer", "policyHolder"),
    *("beneficiary", "subscriber", "receiver", "recipient", "recorder", "reportedReference"),
    *("requester", "sender", "source", "action", "for", "participant"),
}
"""Root elements by which somebody has a part in what is about one patient, or that one."""


@pytest.mark.parametrize(
    ("name", "version"),
    [(name, version) for name, versions in shared_types().items() for version in versions],
)
def test_every_element_that_refers_to_patients_is_decided_about(name, version):
    """A new FHIR version with a new one fails here."""
    elements = load_definitions(version).elements(name)
    decided = PARTS | {path[0] for path in subject_paths(version, name)}
    if name in (GROUP, PATIENT):
        decided |= elements.keys()
    elif "subject" in elements and elements["subject"].max == "1":
        decided.add("subject")

    referring = {path[0] for path in shared_types()[name][version]}

    assert referring
    assert referring - decided == set()


def test_every_decision_is_about_an_element_of_a_compartment():
    decided = {
        (name, path[0])
        for name in SUBJECTS
        for version in FHIRVersion
        for path in subject_paths(version, name)
    }

    assert decided == {(name, element) for name, names in SUBJECTS.items() for element in names}


def test_one_subject_in_R4_is_several_in_R5():  # noqa: N802 - the versions' names
    assert not subject_paths(FHIRVersion.R4, "Composition")
    assert subject_paths(FHIRVersion.R5, "Composition") == (("subject", "reference"),)
