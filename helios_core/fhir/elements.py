"""The root elements of a resource type by their JSON names; a choice has one name per type."""

from collections.abc import Collection, Iterator
from functools import cache

from helios_core.fhir.data_types import choice_suffix
from helios_core.fhir.definitions import FHIRVersion, load_definitions

_CHOICE = "[x]"
_TYPE = "resourceType"
_TEXT = "text"
_IDENTIFYING = frozenset({"id", "meta"})


@cache
def json_names(version: FHIRVersion, resource_type: str, element: str) -> frozenset[str]:
    """
    Return the JSON names that an element stands for; none if the type has no such element.

    `value` and `value[x]` stand for all types of a choice, `valueQuantity` for one of them.
    Every type has `resourceType`.
    """
    if element == _TYPE:
        return frozenset({_TYPE})
    elements = load_definitions(version).elements(resource_type)
    if element in elements and not element.endswith(_CHOICE):
        return frozenset({element})
    choice = element.removesuffix(_CHOICE)
    if definition := elements.get(choice + _CHOICE):
        return frozenset(choice + choice_suffix(data_type) for data_type in definition.types)
    if element in _choice_names(version, resource_type):
        return frozenset({element})
    return _listed_choice_names(version, resource_type, choice)


def kept_names(
    version: FHIRVersion, resource_type: str, requested: Collection[str]
) -> frozenset[str]:
    """Return the JSON names of the requested elements, the mandatory ones, id and meta."""
    names = _IDENTIFYING | mandatory_names(version, resource_type)
    return names.union(*(json_names(version, resource_type, element) for element in requested))


@cache
def mandatory_names(version: FHIRVersion, resource_type: str) -> frozenset[str]:
    """
    Return the JSON names of the mandatory elements.

    The definitions of R6 do not say which choices are mandatory; those of R5 are used instead.
    """
    elements = load_definitions(version).elements(resource_type)
    mandatory = [name for name, element in elements.items() if element.min]
    if version is FHIRVersion.R6 and resource_type in load_definitions(FHIRVersion.R5).types:
        in_r5 = load_definitions(FHIRVersion.R5).elements(resource_type)
        mandatory += [
            name for name, element in in_r5.items() if element.min and name.endswith(_CHOICE)
        ]
    return frozenset().union(*(json_names(version, resource_type, name) for name in mandatory))


@cache
def summary_elements(version: FHIRVersion, resource_type: str) -> frozenset[str]:
    """
    Return the root elements that are part of a summary (FHIR R4, search.html#summary).

    The definitions of R6 do not say which; those of R5 are used instead, and a type that R5 does
    not have is its own summary.
    """
    source = FHIRVersion.R5 if version is FHIRVersion.R6 else version
    if resource_type not in load_definitions(source).types:
        return frozenset(load_definitions(version).elements(resource_type))
    elements = load_definitions(source).elements(resource_type)
    return frozenset(name for name, element in elements.items() if element.summary)


def data_elements(version: FHIRVersion, resource_type: str) -> frozenset[str]:
    """Return all root elements but the narrative."""
    return frozenset(load_definitions(version).elements(resource_type)) - {_TEXT}


def text_elements(_: FHIRVersion, __: str) -> frozenset[str]:
    """Return the narrative."""
    return frozenset({_TEXT})


def _choice_names(version: FHIRVersion, resource_type: str) -> frozenset[str]:
    elements = load_definitions(version).elements(resource_type)
    return frozenset(
        name.removesuffix(_CHOICE) + choice_suffix(data_type)
        for name, element in elements.items()
        if name.endswith(_CHOICE)
        for data_type in element.types
    )


def _listed_choice_names(version: FHIRVersion, resource_type: str, choice: str) -> frozenset[str]:
    """
    Return the JSON names of a choice in R6, whose definitions list each name as an element.

    At least two names must match: a single one is an element that is not a choice.
    """
    names = frozenset(
        name
        for name in load_definitions(version).elements(resource_type)
        if name.startswith(choice) and name[len(choice) :] in _root_choice_suffixes()
    )
    return names if choice and len(names) > 1 else frozenset()


@cache
def _root_choice_suffixes() -> frozenset[str]:
    """Return the suffixes of root choices in R5; R6 has the same ones."""
    return frozenset(_choice_suffixes_in(FHIRVersion.R5))


def _choice_suffixes_in(version: FHIRVersion) -> Iterator[str]:
    for elements in load_definitions(version).root_elements.values():
        for name, element in elements.items():
            if name.endswith(_CHOICE):
                yield from map(choice_suffix, element.types)
