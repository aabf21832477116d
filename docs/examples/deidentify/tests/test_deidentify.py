from typing import ClassVar

import pytest
from helios_deidentify import ELEMENTS, Deidentified, DeidentifySettings, helios_transform

from helios_core import ConfigurationError, Secret, SupportsRenaming, TypeKey
from helios_core.fhir import FHIRVersion, load_definitions
from helios_core.testing import TransformSuite

SECRET = TransformSuite.SECRET
KEY = "k" * 32
ANYWHERE = {
    "text": {"status": "generated", "div": f"<div>{SECRET}</div>"},
    "extension": [{"url": "urn:x", "valueString": SECRET}],
    "contained": [{"resourceType": "Patient", "id": "c", "name": [{"family": SECRET}]}],
    "identifier": [{"system": "urn:x", "value": SECRET}],
    "meta": {"source": SECRET, "tag": [{"display": SECRET}]},
}


class TestDeidentified(TransformSuite):
    powers = frozenset({SupportsRenaming})
    settings: ClassVar = {"secret": Secret(KEY)}

    @pytest.fixture
    def extension(self):
        return helios_transform()

    def confidential(self):
        named = {"text": SECRET, "coding": [{"system": "http://loinc.org", "display": SECRET}]}
        subject = {"reference": f"Patient/{SECRET}", "display": SECRET}
        everything = {
            "name": [{"family": SECRET}],
            "_gender": {"extension": [{"url": "urn:x", "valueString": SECRET}]},
            "code": named,
            "subject": subject,
            "encounter": {"reference": f"https://elsewhere/Encounter/{SECRET}"},
            "note": [{"text": SECRET}],
            "valueString": SECRET,
            "component": [{"code": named, "valueString": SECRET}],
        }
        types = ("Patient", "Observation", "Condition", "Binary", "Bundle", "Practitioner")
        return [{"resourceType": name, "id": SECRET, **ANYWHERE, **everything} for name in types]


def deidentified(resource, *, tenant="default", secret=KEY):
    transform = Deidentified(Secret(secret))
    return transform.apply(resource, TypeKey(tenant, FHIRVersion.R4, resource["resourceType"]))


def test_references_lead_to_the_resource_that_leaves():
    patient = deidentified({"resourceType": "Patient", "id": "p1"})
    observation = deidentified(
        {"resourceType": "Observation", "id": "o1", "subject": {"reference": "Patient/p1"}}
    )

    assert observation["subject"] == {"reference": f"Patient/{patient['id']}"}


def test_codes_and_numbers_stay_and_dates_become_years():
    observation = {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}], "text": "blood"},
        "effectiveDateTime": "2026-01-02T03:04:05Z",
        "valueQuantity": {"value": 120, "unit": "mm[Hg]", "code": "mm[Hg]"},
    }

    assert {key: value for key, value in deidentified(observation).items() if key != "id"} == {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}]},
        "effectiveDateTime": "2026",
        "valueQuantity": {"value": 120, "unit": "mm[Hg]", "code": "mm[Hg]"},
    }


def test_a_pseudonym_depends_on_the_secret_and_the_tenant():
    patient = {"resourceType": "Patient", "id": "p1"}

    ids = {
        deidentified(patient)["id"],
        deidentified(patient, tenant="other")["id"],
        deidentified(patient, secret="j" * 32)["id"],
    }

    assert len(ids) == 3
    assert deidentified(patient) == deidentified(patient)


def test_a_short_secret_is_refused():
    with pytest.raises(ConfigurationError, match="HFS_DEIDENTIFY_SECRET"):
        DeidentifySettings(secret=Secret("short"))


def test_every_type_on_the_list_exists_and_has_its_elements():
    definitions = load_definitions(FHIRVersion.R4)

    assert ELEMENTS.keys() <= definitions.types
