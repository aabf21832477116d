"""
Generate the tables of the types of child elements from HL7's StructureDefinitions.

Run `python -m helios_core.fhir.definitions.generate_shapes FOLDER`; the folder is that of
`generate_links`. The server does not import this module.
"""

import sys
from pathlib import Path

from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.definitions.structure_definitions import (
    CHOICE,
    Tables,
    read_elements,
    write_tables,
)

_INHERITED = frozenset({"id", "extension", "modifierExtension", "contained"})


def shapes(source: Path, version: FHIRVersion) -> Tables:
    """
    Return the tables of a version as `load_shapes` describes them.

    R6 has those of R5 with the root elements of `R6.json`.
    """
    if version is FHIRVersion.R6:
        return _with_root_elements(shapes(source, FHIRVersion.R5))
    tables: Tables = {}
    for element in read_elements(source / version):
        parent, _, name = element.path.rpartition(".")
        if parent and name not in _INHERITED:
            children = tables.setdefault(parent, {})
            for child, type_ in element.children(name):
                if type_[:1].isupper() or element.repeats or name.endswith(CHOICE):
                    children[child] = type_ + "*" * element.repeats
            if name.endswith(CHOICE):
                children[name] = ""
    return {path: children for path, children in tables.items() if children}


def _with_root_elements(tables: Tables) -> Tables:
    definitions = load_definitions(FHIRVersion.R6)
    old_types = load_definitions(FHIRVersion.R5).types
    tables = {
        path: dict(children)
        for path, children in tables.items()
        if (root := path.partition(".")[0]) in definitions.types or root not in old_types
    }
    for resource_type, elements in definitions.root_elements.items():
        for name, element in elements.items():
            for type_ in element.types:
                # The source of R6 writes the type of a backbone element as `Account_Balance`.
                own = f"{resource_type}.{name}" if "_" in type_ else type_
                if name not in _INHERITED and (own[:1].isupper() or element.max != "1"):
                    children = tables.setdefault(resource_type, {})
                    children[name] = own + "*" * (element.max != "1")
    return tables


def main(source: Path, target: Path = Path(__file__).parent) -> None:
    """Write the tables of all versions to a folder, by default that of this module."""
    for version in FHIRVersion:
        write_tables(shapes(source, version), target / f"{version}.shapes.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
