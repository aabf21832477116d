"""What a data provider can hold, and the resources that the suite stores within that."""

from collections.abc import Callable

import msgspec

from helios_core.fhir import FHIRVersion, Resource, load_definitions
from helios_core.testing import corpus

MEBIBYTE = 1024 * 1024


class Holdings(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a data provider can hold.

    The defaults stand for a provider that holds any resource of any tenant and FHIR version. A
    provider over existing tables declares what these can hold, and is tested on that.
    """

    types: tuple[str, ...] = corpus.TYPES
    """The resource types that it holds; a provider over tables names all of them."""
    tenants: tuple[str, ...] = (corpus.TENANT, corpus.OTHER_TENANT)
    """At most two tenants, neither of which may see anything of the other."""
    fhir_versions: tuple[FHIRVersion, ...] = (corpus.VERSION, FHIRVersion.R5)
    """At most two FHIR versions."""
    to_id: Callable[[int], str] | None = None
    """Returns the id for a number from 1; None if any FHIR id can be stored, such as `o-both`."""
    note_length: int = MEBIBYTE
    """Maximum characters of a text that resources show somewhere; 0 if they show none."""
    unowned: bool = True
    """Whether a resource of a type in the Patient compartment can be about no patient."""
    shared: bool = True
    """Whether a resource can be about two patients."""
    stamps_rows: bool = True
    """Whether each resource has its own instant of change; if not, each load changes all."""
    keeps_past: bool = True
    """
    Whether a view of an earlier transaction time can be read.

    If not, the provider must raise BackendError rather than show another state.
    """

    @property
    def tenant(self) -> str:
        """The default tenant."""
        return self.tenants[0]

    @property
    def other_tenant(self) -> str:
        """A tenant other than `tenant`, whether or not anything can be stored in it."""
        others = (*self.tenants[1:], corpus.OTHER_TENANT, corpus.TENANT)
        return next(name for name in others if name != self.tenant)

    @property
    def fhir_version(self) -> FHIRVersion:
        """The default FHIR version."""
        return self.fhir_versions[0]

    @property
    def other_version(self) -> FHIRVersion:
        """Another FHIR version than `fhir_version`, whether or not the provider can store it."""
        others: list[FHIRVersion] = [*self.fhir_versions[1:], *FHIRVersion]
        return next(version for version in others if version != self.fhir_version)

    @property
    def patient_types(self) -> tuple[str, ...]:
        """The types in the Patient compartment, without Patient itself."""
        compartment = load_definitions(self.fhir_version).compartment_types("Patient")
        return tuple(name for name in self.types if name in compartment and name != "Patient")

    @property
    def other_types(self) -> tuple[str, ...]:
        """The types that are in no patient's compartment."""
        compartment = load_definitions(self.fhir_version).compartment_types("Patient")
        return tuple(name for name in self.types if name not in compartment)

    def problem(self) -> str | None:
        """Return what is wrong with the declaration, or None if it can be tested."""
        known = load_definitions(self.fhir_version).types if self.fhir_versions else frozenset()
        if not self.types or not self.tenants or not self.fhir_versions:
            return "holdings name at least one type, one tenant and one FHIR version"
        if unknown := sorted({*self.types} - known):
            return f"{unknown[0]} is not a resource type of FHIR {self.fhir_version}"
        if self.patient_types and "Patient" not in self.types and not self.unowned:
            return f"{self.patient_types[0]} is always about a patient, but there is no Patient"
        return None


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A resource that the suite needs, described independently of how it is stored."""

    resource_type: str
    id: str
    patients: tuple[str, ...] = ()
    """The ids of the patients that it is about; of a Patient, its own id."""
    note: str = ""
    """A text that the resource shows somewhere."""

    @property
    def name(self) -> str:
        """`Type/id`, by which the suites identify a resource."""
        return f"{self.resource_type}/{self.id}"

    def resource(self, fhir_version: FHIRVersion) -> Resource:
        """Return the sample as a resource of `corpus`, for a provider that holds any resource."""
        match self.resource_type:
            case "Patient":
                return corpus.patient(self.id, note=self.note, fhir_version=fhir_version)
            case "Observation":
                return corpus.observation(
                    self.id, *self.patients, note=self.note, fhir_version=fhir_version
                )
            case "Organization":
                return corpus.organization(self.id, note=self.note, fhir_version=fhir_version)
            case _:
                raise NotImplementedError(
                    f"a suite whose holdings have {self.resource_type} stores it in `inserting`"
                )
