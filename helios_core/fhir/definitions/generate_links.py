"""
Generate the tables of elements that can hold links from HL7's StructureDefinitions.

Run `python -m helios_core.fhir.definitions.generate_links FOLDER`.

FOLDER has the folders R4, R4B and R5 with what HL7 publishes: `profiles-types.xml` and
`profiles-resources.xml`, or the `StructureDefinition-*.json` of a package. R6 has published none;
its table is that of R5 together with the root elements in `R6.json`. The server does not import
this module.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from helios_core.fhir.data_types import choice_suffix
from helios_core.fhir.definitions import FHIRVersion, load_definitions

LEAVES = frozenset({"uri", "url", "oid", "uuid", "xhtml"})
"""Primitive types that can hold a link; canonical is none (FHIR R4, http.html#trules)."""

_XML = "{http://hl7.org/fhir}"
_CHOICE = "[x]"
_ANONYMOUS = frozenset({"BackboneElement", "Element"})
_ANYWHERE = frozenset({"extension", "modifierExtension", "contained"})

Tables = dict[str, dict[str, str]]
"""
The type of each child that is or contains a link, by type or path and JSON name.

Extensions and contained resources are left out: they can be anywhere.
"""


def link_tables(source: Path, version: FHIRVersion) -> Tables:
    """Return the tables of a version; a child without its own table is left out."""
    if version is FHIRVersion.R6:
        return _with_root_elements(link_tables(source, FHIRVersion.R5), version)
    tables: Tables = {}
    for path, types in _elements(source / version):
        parent, _, name = path.rpartition(".")
        if not parent or name in _ANYWHERE or path.startswith("Bundle."):
            continue  # a Bundle resolves links within itself (FHIR R4, bundle.html#references)
        for type_ in types:
            child = path if type_ in _ANONYMOUS else type_
            suffix = choice_suffix(type_) if name.endswith(_CHOICE) else ""
            tables.setdefault(parent, {})[name.removesuffix(_CHOICE) + suffix] = child
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
        # A backbone element is written `Account_Balance`.
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


def _elements(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the path and the types of each element; a reused content is a path as its type."""
    for path in sorted(folder.glob("StructureDefinition-*.json")):
        definition: dict[str, Any] = json.loads(path.read_bytes())
        if _defines_type(
            definition["kind"], definition.get("derivation", ""), definition["abstract"]
        ):
            for element in definition["snapshot"]["element"]:
                types = [type_["code"] for type_ in element.get("type", ())]
                yield element["path"], types or _reused(element.get("contentReference", ""))
    for name in ("profiles-types.xml", "profiles-resources.xml"):
        if (folder / name).exists():
            yield from _xml_elements(folder / name)


def _xml_elements(path: Path) -> Iterator[tuple[str, list[str]]]:
    for _, node in ET.iterparse(path):  # noqa: S314 - HL7's own files
        if node.tag != f"{_XML}StructureDefinition":
            continue
        if _defines_type(
            _value(node, "kind"), _value(node, "derivation"), _value(node, "abstract") == "true"
        ):
            for element in node.iterfind(f"{_XML}snapshot/{_XML}element"):
                types = [_value(type_, "code") for type_ in element.iterfind(f"{_XML}type")]
                yield (
                    _value(element, "path"),
                    types or _reused(_value(element, "contentReference")),
                )
        node.clear()


def _defines_type(kind: str, derivation: str, abstract: object) -> bool:
    return kind in {"complex-type", "resource"} and derivation != "constraint" and not abstract


def _value(node: ET.Element, name: str) -> str:
    child = node.find(_XML + name)
    return "" if child is None else child.get("value", "")


def _reused(content_reference: str) -> list[str]:
    return [content_reference.rpartition("#")[2]] if content_reference else []


def main(source: Path, target: Path = Path(__file__).parent) -> None:
    """Write the tables of all versions to a folder, by default that of this module."""
    for version in FHIRVersion:
        tables = link_tables(source, version)
        lines = (
            f'"{path}":{json.dumps(tables[path], sort_keys=True, separators=(",", ":"))}'
            for path in sorted(tables)
        )
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        (target / f"{version}.links.json").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
