"""
Generate the tables of elements that can hold links from HL7's StructureDefinitions.

Run `python -m helios_core.fhir.definitions.generate_links FOLDER`.

FOLDER has the folders R4, R4B and R5, each as `read_elements` reads it. R6 has published no
StructureDefinitions; its table is that of R5 together with the root elements in `R6.json`. The
server does not import this module.
"""

import sys
from pathlib import Path

from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.definitions.structure_definitions import (
    Tables,
    read_elements,
    write_tables,
)

LEAVES = frozenset({"uri", "url", "oid", "uuid", "xhtml"})
"""Primitive types that can hold a link; canonical cannot (FHIR R4, http.html#trules)."""

_ANYWHERE = frozenset({"extension", "modifierExtension", "contained"})


def link_tables(source: Path, version: FHIRVersion) -> Tables:
    """
    Return the table of a version as `load_link_tables` describes it.

    R6 has that of R5 with the root elements of `R6.json`.
    """
    if version is FHIRVersion.R6:
        return _with_root_elements(link_tables(source, FHIRVersion.R5), version)
    tables: Tables = {}
    for element in read_elements(source / version):
        parent, _, name = element.path.rpartition(".")
        if not parent or name in _ANYWHERE or element.path.startswith("Bundle."):
            continue  # a Bundle resolves links within itself (FHIR R4, bundle.html#references)
        tables.setdefault(parent, {}).update(element.children(name))
    tables["Reference"]["reference"] = "reference"
    return _pruned(tables)


def _with_root_elements(tables: Tables, version: FHIRVersion) -> Tables:
    definitions = load_definitions(version)
    old_types = load_definitions(FHIRVersion.R5).types
    tables = {
        path: dict(children)
        for path, children in tables.items()
        if (root := path.partition(".")[0]) in definitions.types or root not in old_types
    }
    for resource_type, elements in definitions.root_elements.items():
        # The source of R6 writes the type of a backbone element as `Account_Balance`.
        tables.setdefault(resource_type, {}).update(
            (name, f"{resource_type}.{name}" if "_" in type_ else type_)
            for name, element in elements.items()
            for type_ in element.types
            if name not in _ANYWHERE and resource_type != "Bundle"
        )
    return _pruned(tables)


def _pruned(tables: Tables) -> Tables:
    """Return the tables without the children that cannot be or contain a link."""
    kept = {"Resource", "reference", *LEAVES}
    while more := {
        path
        for path, children in tables.items()
        if path not in kept and not kept.isdisjoint(children.values())
    }:
        kept |= more
    return {
        path: {name: child for name, child in children.items() if child in kept}
        for path, children in tables.items()
        if path in kept
    }


def main(source: Path, target: Path = Path(__file__).parent) -> None:
    """Write the tables of all versions to a folder, by default that of this module."""
    for version in FHIRVersion:
        write_tables(link_tables(source, version), target / f"{version}.links.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
