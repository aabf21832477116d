"""Find the patients in whose compartments a resource is (FHIR's CompartmentDefinition)."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from helios_core.fhir.definitions import Definitions, FHIRVersion, load_definitions
from helios_core.fhir.fhirpath.parser import As, Child, Is, Step, parse_expression
from helios_core.fhir.references import split_reference

KeyPath = tuple[str, ...]
"""JSON keys from the resource to the text of a reference; each item of an array is followed."""

SUBJECTS: Mapping[str, frozenset[str]] = {
    "Account": frozenset({"subject"}),
    "Appointment": frozenset({"participant"}),
    "AuditEvent": frozenset({"agent", "entity"}),
    "Composition": frozenset({"subject"}),
    "Contract": frozenset({"subject"}),
    "List": frozenset({"subject"}),
    "Person": frozenset({"link"}),
    "Provenance": frozenset({"target"}),
    "Schedule": frozenset({"actor"}),
}
"""
The root elements through which a resource can be about several patients at once, by type.

An element counts only in those FHIR versions in which it repeats and puts the resource into a
compartment: a Composition has one subject in R4 and several in R5.
"""


def patients_of(
    resource: Mapping[str, Any], fhir_version: FHIRVersion, base_urls: Sequence[str] = ()
) -> tuple[str, ...]:
    """
    Return the ids of the patients in whose compartments a resource is, sorted and distinct.

    A Patient is in its own compartment and in those of the patients it links to. Absolute
    references count only under one of `base_urls`; contained, temporary and logical ones never do.
    """
    resource_type = resource["resourceType"]
    paths = compartment_paths(fhir_version).get(resource_type, ())
    patients = patients_at(resource, paths, base_urls)
    if resource_type == "Patient" and "id" in resource:
        patients.add(resource["id"])
    return tuple(sorted(patients))


def patients_at(
    resource: Mapping[str, Any], paths: Sequence[KeyPath], base_urls: Sequence[str] = ()
) -> set[str]:
    """Return the ids of the patients that a resource refers to at some of its paths."""
    references: list[str] = []
    for path in paths:
        _collect(resource, path, 0, references)
    patients = set[str]()
    for reference in references:
        if "Patient/" in reference:
            target = split_reference(reference, base_urls)
            if target is not None and target[0] == "Patient":
                patients.add(target[1])
    return patients


def _collect(node: object, path: KeyPath, depth: int, references: list[str]) -> None:
    if isinstance(node, dict):
        if depth < len(path) and (child := node.get(path[depth])) is not None:
            _collect(child, path, depth + 1, references)
    elif isinstance(node, list):
        for item in node:
            _collect(item, path, depth, references)
    elif depth == len(path) and isinstance(node, str):
        references.append(node)


@cache
def compartment_paths(fhir_version: FHIRVersion) -> Mapping[str, tuple[KeyPath, ...]]:
    """Return by type the paths of references that put a resource into a Patient compartment."""
    definitions = load_definitions(fhir_version)
    return {
        resource_type: tuple(
            dict.fromkeys(
                path
                for code in codes
                for path in reference_paths(definitions, "Patient", resource_type, code=code)
            )
        )
        for resource_type, codes in definitions.compartments["Patient"].items()
    }


def reference_paths(
    definitions: Definitions, compartment: str, resource_type: str, *, code: str
) -> tuple[KeyPath, ...]:
    """
    Return the paths at which a search parameter finds references to the compartment's type.

    Empty if the version defines no such parameter for the resource type.

    Raises:
        ValueError: The parameter's expression uses an unsupported step. Leaving the step out would
            put resources into the wrong compartment.
    """
    parameters = (p for p in definitions.search_parameters(resource_type) if p.code == code)
    alternatives = (
        alternative
        for parameter in parameters
        if parameter.expression
        for alternative in parse_expression(parameter.expression)
        if alternative.root == resource_type
    )
    elements = set(definitions.elements(resource_type))
    paths = (_key_path(alternative.steps, compartment, elements) for alternative in alternatives)
    return tuple(path for path in paths if path)


def _key_path(steps: Sequence[Step], compartment: str, elements: set[str]) -> KeyPath | None:
    """Return the path of a reference, or None if the steps select something else."""
    names: list[str] = []
    choice = False
    for step in steps:
        match step:
            case Child(name) if not choice:
                names.append(name)
            case As("Reference"):
                choice = True
            case Is(target) if target == compartment:
                pass
            case As() | Is():
                return None
            case _:
                raise ValueError(
                    f"the FHIRPath step {type(step).__name__} is not supported in a compartment"
                )
    choice = choice or (len(names) == 1 and f"{names[0]}[x]" in elements)
    return (*names[:-1], names[-1] + "Reference" if choice else names[-1], "reference")


@cache
def subject_paths(version: FHIRVersion, resource_type: str) -> tuple[KeyPath, ...]:
    """Return the paths of the patients that a resource is about, none if it is about one only."""
    names = SUBJECTS.get(resource_type, frozenset())
    if resource_type not in (definitions := load_definitions(version)).types:
        return ()
    elements = definitions.elements(resource_type)
    return tuple(
        path
        for path in compartment_paths(version).get(resource_type, ())
        if path[0] in names and elements[path[0]].max == "*"
    )
