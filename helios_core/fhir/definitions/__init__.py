"""The supported FHIR versions and their definitions, which are JSON files in this folder."""

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
        """Major and minor version, the value of the `fhirVersion` media type parameter: "4.0"."""
        return load_definitions(self).release

    @classmethod
    def from_media_type_parameter(cls, text: str) -> "FHIRVersion":
        """
        Parse a `fhirVersion` parameter: "4.0", or a full version such as "4.0.1".

        Raises:
            InvalidParameter: The server does not support such a version.
        """
        release = ".".join(text.split(".")[:2])
        for version in cls:
            if text in (version.release, load_definitions(version).label):
                return version
        supported = ", ".join(version.release for version in cls)
        nearest = next((v.release for v in cls if v.release == release), None)
        hint = f"; did you mean {nearest}?" if nearest else ""
        raise InvalidParameter(f"fhirVersion must be one of {supported}{hint}")


class ElementDefinition(msgspec.Struct, frozen=True):
    """A root element of a resource type."""

    types: tuple[str, ...]
    """Its data types, several for a choice; a reference is `Reference`, without its targets."""
    min: int = 0
    max: str = "1"
    """A number or `*`."""
    summary: bool = False
    """Whether `_summary=true` includes it; always false in R6, whose source does not state it."""


class SearchComponent(msgspec.Struct, frozen=True):
    """One component of a composite search parameter."""

    definition: str
    """The canonical URL of the component's own search parameter."""
    expression: str


class SearchParameter(msgspec.Struct, frozen=True):
    """A search parameter as published."""

    code: str
    type: str
    base: tuple[str, ...]
    """The resource types it applies to; may be Resource or DomainResource."""
    url: str
    expression: str | None = None
    """FHIRPath, including the paths of other types; None for the few without an expression."""
    target: tuple[str, ...] = ()
    """The resource types that a reference may point to."""
    component: tuple[SearchComponent, ...] = ()


class Definitions(msgspec.Struct, frozen=True, kw_only=True):
    """The definitions of one FHIR version that a server needs."""

    label: str
    """The full version, as in CapabilityStatement.fhirVersion: "4.0.1"."""
    release: str
    """Major and minor version: "4.0"."""
    root_elements: Mapping[str, Mapping[str, ElementDefinition]] = msgspec.field(name="elements")
    compartments: Mapping[str, Mapping[str, tuple[str, ...]]]
    """By compartment and resource type, the codes of the search parameters that link the two."""
    parameters: tuple[SearchParameter, ...] = msgspec.field(name="search_parameters")

    @property
    def types(self) -> frozenset[str]:
        """Return the names of the concrete resource types."""
        return frozenset(self.root_elements)

    def elements(self, resource_type: str) -> Mapping[str, ElementDefinition]:
        """
        Return the root elements of a resource type by name.

        A choice is `value[x]`, except in R6, whose source lists valueQuantity and so on.
        """
        return self.root_elements[resource_type]

    def search_parameters(self, resource_type: str) -> tuple[SearchParameter, ...]:
        """Return the parameters of a resource type, including those of all types."""
        bases = {resource_type, "DomainResource", "Resource"}
        return tuple(p for p in self.parameters if not bases.isdisjoint(p.base))

    def compartment_types(self, compartment: str) -> frozenset[str]:
        """Return the types that can be in a compartment, including the compartment's own type."""
        return frozenset({compartment, *self.compartments[compartment]})


@cache
def load_definitions(version: FHIRVersion) -> Definitions:
    """Return the definitions of a version; the file is read once."""
    source = files("helios_core.fhir.definitions") / f"{version.value}.json"
    return msgspec.json.decode(source.read_bytes(), type=Definitions)


@cache
def load_link_tables(version: FHIRVersion) -> Mapping[str, Mapping[str, str]]:
    """
    Return the elements that are or contain a link: a type by parent and JSON name.

    The parent is a data type, a resource type, or the path of an element without a type of its
    own, such as `Patient.contact`. The type is uri, url, oid, uuid, xhtml, `reference` (the text
    of a Reference), Resource, or another parent of the table. Elements that can be anywhere
    (extension, modifierExtension, contained) are left out. A canonical is not a link (FHIR R4,
    http.html#trules).
    """
    source = files("helios_core.fhir.definitions") / f"{version.value}.links.json"
    return msgspec.json.decode(source.read_bytes(), type=dict[str, dict[str, str]])


@cache
def load_shapes(version: FHIRVersion) -> Mapping[str, Mapping[str, str]]:
    """
    Return the type of each child element by parent and JSON name.

    Parents are as in `load_link_tables`. A `*` follows the type of a child that repeats. Primitive
    children that do not repeat are left out, and so are elements that can be anywhere (id,
    extension, modifierExtension, contained). A choice has one entry for each type and one more,
    such as `value[x]`, whose type is empty; the root elements of R6 lack the latter.
    """
    source = files("helios_core.fhir.definitions") / f"{version.value}.shapes.json"
    return msgspec.json.decode(source.read_bytes(), type=dict[str, dict[str, str]])
