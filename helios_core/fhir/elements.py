"""The root elements of a type as they stand in JSON: choices spelt out, extensions beside them."""

from collections.abc import Collection, Iterator
from functools import cache

from helios_core.fhir.definitions import FHIRVersion, load_definitions

CHOICE = "[x]"

ALWAYS = frozenset({"id", "meta"})
"""What identifies a resource and tells its version: part of it however little is asked for."""


@cache
def json_names(version: FHIRVersion, resource_type: str, element: str) -> frozenset[str]:
    """
    Give the JSON names that an element stands for, none where the type has no such element.

    A choice may be named `value`, `value[x]`, or `valueQuantity` for that one alone.
    """
    elements = load_definitions(version).elements(resource_type)
    if element in elements and not element.endswith(CHOICE):
        return frozenset({element})
    choice = element.removesuffix(CHOICE)
    if found := elements.get(choice + CHOICE):
        return frozenset(choice + _capital(each) for each in found.types)
    if element in _choices(version, resource_type):
        return frozenset({element})
    return _spelt_in_table(version, resource_type, choice)


def kept_names(version: FHIRVersion, resource_type: str, asked: Collection[str]) -> frozenset[str]:
    """Give the JSON names of the elements asked for and of those no resource can do without."""
    names = ALWAYS | mandatory_names(version, resource_type)
    return names.union(*(json_names(version, resource_type, element) for element in asked))


@cache
def mandatory_names(version: FHIRVersion, resource_type: str) -> frozenset[str]:
    """
    Give the JSON names of the mandatory elements.

    R6 does not say which choices are mandatory; there those count that R5 demands.
    """
    required = [
        name
        for name, each in load_definitions(version).elements(resource_type).items()
        if each.min
    ]
    if version is FHIRVersion.R6 and resource_type in load_definitions(FHIRVersion.R5).types:
        before = load_definitions(FHIRVersion.R5).elements(resource_type)
        required += [name for name, each in before.items() if each.min and name.endswith(CHOICE)]
    return frozenset().union(*(json_names(version, resource_type, name) for name in required))


def _choices(version: FHIRVersion, resource_type: str) -> frozenset[str]:
    elements = load_definitions(version).elements(resource_type)
    return frozenset(
        name.removesuffix(CHOICE) + _capital(each)
        for name, element in elements.items()
        if name.endswith(CHOICE)
        for each in element.types
    )


def _spelt_in_table(version: FHIRVersion, resource_type: str, choice: str) -> frozenset[str]:
    """Give the names of a choice where the table has them one by one, at least two."""
    names = frozenset(
        name
        for name in load_definitions(version).elements(resource_type)
        if name.startswith(choice) and name[len(choice) :] in _data_types()
    )
    return names if choice and len(names) > 1 else frozenset()


@cache
def _data_types() -> frozenset[str]:
    """Give the types that R5 offers in choices, with a capital; those of R6 are the same."""
    return frozenset(_data_types_of(FHIRVersion.R5))


def _data_types_of(version: FHIRVersion) -> Iterator[str]:
    for elements in load_definitions(version).root_elements.values():
        for name, element in elements.items():
            if name.endswith(CHOICE):
                yield from map(_capital, element.types)


def _capital(data_type: str) -> str:
    return data_type[:1].upper() + data_type[1:]
