"""The suite holds for providers over tables, and is narrowed to nothing but what they declare."""

import pytest
from msgspec.structs import replace

from helios_core import SupportsSearch, SupportsWrites
from helios_core.fhir import FHIRVersion
from helios_core.testing import DataProviderSuite, Holdings
from tests.testing.clinic import (
    PATIENTS,
    SCHEMA,
    VISITS,
    WARDS,
    AppendedClinicSuite,
    Clinic,
    ClinicSuite,
)


class TestClinic(ClinicSuite):
    pass


class TestAppendedClinic(AppendedClinicSuite):
    pass


class NamedClinic(Clinic):
    """Its keys are texts."""

    queries = tuple(replace(query, key_type=str) for query in (PATIENTS, VISITS, WARDS))


class TestNamedClinic(ClinicSuite):
    subject_class = NamedClinic
    schema = SCHEMA.replace("INTEGER PRIMARY KEY", "TEXT PRIMARY KEY").replace(
        "patient_id INTEGER", "patient_id TEXT"
    )
    holdings = replace(ClinicSuite.holdings, to_id="no-{:x}".format)


class UnlinkedClinic(Clinic):
    """No column says whom a row is about: only the resource does."""

    queries = (PATIENTS, replace(VISITS, patient=None), WARDS)


class TestUnlinkedClinic(ClinicSuite):
    subject_class = UnlinkedClinic


def test_a_skip_says_what_is_declared():
    suite = type("Small", (DataProviderSuite,), {"holdings": Holdings(types=("Organization",))})()

    with pytest.raises(pytest.skip.Exception, match="Small declares no Patient in its holdings"):
        suite.needs_type("Patient")
    suite.needs_type("Organization")


def test_a_skip_for_want_of_room_says_how_much_is_declared():
    suite = type("Small", (DataProviderSuite,), {"holdings": Holdings(note_length=50)})()

    with pytest.raises(pytest.skip.Exception, match="declares texts of 50 characters"):
        suite.needs_note(51)
    suite.needs_note(50)


def test_nothing_is_skipped_that_is_not_declared():
    suite = DataProviderSuite()

    suite.needs_type("Patient")
    suite.needs_note(1024 * 1024)


@pytest.mark.parametrize("power", [SupportsWrites, SupportsSearch])
def test_limited_holdings_do_not_go_with_powers_over_any_resource(power):
    body = {"holdings": Holdings(tenants=("ours",)), "powers": frozenset({power})}

    with pytest.raises(TypeError, match=f"claims {power.__name__}"):
        type("TestLimited", (DataProviderSuite,), body)


@pytest.mark.parametrize(
    ("holdings", "problem"),
    [
        (Holdings(types=()), "at least one type"),
        (Holdings(tenants=()), "one tenant"),
        (Holdings(fhir_versions=()), "one FHIR version"),
        (Holdings(types=("Patiente",)), "Patiente is not a resource type"),
        (Holdings(types=("Encounter",), unowned=False), "there is no Patient"),
        (
            Holdings(types=("NutritionIntake",), fhir_versions=(FHIRVersion.R4,)),
            "not a resource type of FHIR R4",
        ),
    ],
)
def test_holdings_that_cannot_be_tested_are_refused(holdings, problem):
    with pytest.raises(TypeError, match=problem):
        type("TestImpossible", (DataProviderSuite,), {"holdings": holdings})
