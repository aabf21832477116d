"""The FHIR versions served, and their tables."""

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from importlib.resources import files

import msgspec

from helios_core.errors import InvalidParameter


class FHIRVersion(StrEnum):
    """A FHIR release, named as HL7 names it."""

    R4 = "R4"
    R4B = "R4B"
    R5 = "R5"
    R6 = "R6"

    @property
    def release(self) -> str:
        """Major and minor number, the value of the `fhirVersion` media-type parameter: "4.0"."""
        return load_definitions(self).release

    @classmethod
    def from_media_type_parameter(cls, text: str) -> "FHIRVersion":
        """
        Read a `fhirVersion` parameter: "4.0", or a full label such as "4.0.1".

        Raises:
            InvalidParameter: It is not the number of a release served here.
        """
        release = ".".join(text.split(".")[:2])
        for version in cls:
            if text in (version.release, load_definitions(version).label):
                return version
        known = ", ".join(version.release for version in cls)
        near = next((v.release for v in cls if v.release == release), None)
        hint = f"; did you mean {near}?" if near else ""
        raise InvalidParameter(f"fhirVersion must be one of {known}{hint}")


class ElementDefinition(msgspec.Struct, frozen=True):
    """What a version says about one root element of a type."""

    types: tuple[str, ...]
    """FHIR data types; a choice lists all of them, a reference says Reference."""
    min: int = 0
    max: str = "1"
    """A number or `*`."""
    summary: bool = False
    """Shown with `_summary=true`; never set in R6, whose source does not say."""


class SearchComponent(msgspec.Struct, frozen=True):
    """One part of a composite search parameter."""

    definition: str
    """The canonical URL of the part's own search parameter."""
    expression: str


class SearchParameter(msgspec.Struct, frozen=True):
    """A search parameter as published."""

    code: str
    type: str
    base: tuple[str, ...]
    """The types it can be asked of, Resource and DomainResource among them."""
    url: str
    expression: str | None = None
    """FHIRPath, alternatives of other types included; None for the few that have none."""
    target: tuple[str, ...] = ()
    """Of a reference: the types it may point to."""
    component: tuple[SearchComponent, ...] = ()


class Definitions(msgspec.Struct, frozen=True, kw_only=True):
    """What one FHIR version defines, as far as a server needs it."""

    label: str
    """The full number, as in CapabilityStatement.fhirVersion: "4.0.1"."""
    release: str
    """Major and minor number: "4.0"."""
    root_elements: Mapping[str, Mapping[str, ElementDefinition]] = msgspec.field(name="elements")
    compartments: Mapping[str, Mapping[str, tuple[str, ...]]]
    """For each compartment, the codes of the search parameters by which a type is in it."""
    parameters: tuple[SearchParameter, ...] = msgspec.field(name="search_parameters")

    @property
    def types(self) -> frozenset[str]:
        """The names of the concrete resource types."""
        return frozenset(self.root_elements)

    def elements(self, resource_type: str) -> Mapping[str, ElementDefinition]:
        """
        Give the root elements of a type by name.

        A choice is `value[x]`, except in R6, whose source spells out valueQuantity and the rest.
        """
        return self.root_elements[resource_type]

    def search_parameters(self, resource_type: str) -> tuple[SearchParameter, ...]:
        """Give the parameters of a type, those of every resource included."""
        bases = {resource_type, "DomainResource", "Resource"}
        return tuple(p for p in self.parameters if not bases.isdisjoint(p.base))

    def compartment_types(self, compartment: str) -> frozenset[str]:
        """Give the types that can be in a compartment, the compartment's own included."""
        return frozenset({compartment, *self.compartments[compartment]})


@cache
def load_definitions(version: FHIRVersion) -> Definitions:
    """Give the table of a version; the first call reads it."""
    source = files("helios_core.fhir.definitions") / f"{version.value}.json"
    return msgspec.json.decode(source.read_bytes(), type=Definitions)
