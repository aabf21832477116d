"""What a data provider can hold, and the resources that the suite stores within that."""

from collections.abc import Callable

import msgspec

from helios_core.fhir import FHIRVersion, Resource, load_definitions
from helios_core.testing import corpus

MEBIBYTE = 1024 * 1024


class Holdings(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a data provider can hold.

    The defaults stand for a provider that holds any resource of any tenant and FHIR version. One
    over somebody's own tables says here what these have room for, and is tested on that.
    """

    types: tuple[str, ...] = corpus.TYPES
    """The resource types with rows; a provider over tables names all of its own."""
    tenants: tuple[str, ...] = (corpus.TENANT, corpus.OTHER_TENANT)
    """The tenants, at most two of them; those of one are tested to see nothing of the other."""
    fhir_versions: tuple[FHIRVersion, ...] = (corpus.VERSION, FHIRVersion.R5)
    """The FHIR versions, at most two of them."""
    to_id: Callable[[int], str] | None = None
    """The id with a number from 1; None if any id can be stored, such as `o-both`."""
    note_length: int = MEBIBYTE
    """How many characters a text may have that a resource shows somewhere; 0 if it shows none."""
    unowned: bool = True
    """Whether a resource of a type in the Patient compartment can be about no patient."""
    shared: bool = True
    """Whether a resource can be about two patients."""
    stamps_rows: bool = True
    """Whether resources keep their instant of change; if not, each load changes all of them."""
    keeps_past: bool = True
    """
    Whether a view of an earlier transaction time can be read.

    If not, the provider has to raise BackendError in place of showing another state.
    """

    @property
    def tenant(self) -> str:
        """The tenant of whatever does not say otherwise."""
        return self.tenants[0]

    @property
    def other_tenant(self) -> str:
        """A tenant that sees nothing of `tenant`, in which something can be stored or not."""
        others = (*self.tenants[1:], corpus.OTHER_TENANT, corpus.TENANT)
        return next(name for name in others if name != self.tenant)

    @property
    def fhir_version(self) -> FHIRVersion:
        """The FHIR version of whatever does not say otherwise."""
        return self.fhir_versions[0]

    @property
    def other_version(self) -> FHIRVersion:
        """Another FHIR version, in which something can be stored or not."""
        others: list[FHIRVersion] = [*self.fhir_versions[1:], *FHIRVersion]
        return next(version for version in others if version != self.fhir_version)

    @property
    def patient_types(self) -> tuple[str, ...]:
        """The types of resources about patients, without Patient."""
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
    """A resource that the suite wants to find: what to store, without saying how."""

    resource_type: str
    id: str
    patients: tuple[str, ...] = ()
    """The ids of the patients that it is about: its own if it is a Patient."""
    note: str = ""
    """A text that the resource shows somewhere."""

    @property
    def name(self) -> str:
        """`Type/id`, how the suites name a resource."""
        return f"{self.resource_type}/{self.id}"

    def resource(self, fhir_version: FHIRVersion) -> Resource:
        """Return it as a resource of `corpus`, for a provider that holds any resource."""
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
