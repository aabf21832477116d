"""
Generate the tables of which elements repeat, and what is in them, from HL7's StructureDefinitions.

Run `python -m helios_core.fhir.definitions.generate_shapes FOLDER`; the folder is that of
`generate_links`. The server does not import this module.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from helios_core.fhir.data_types import choice_suffix
from helios_core.fhir.definitions import FHIRVersion, load_definitions

_XML = "{http://hl7.org/fhir}"
_CHOICE = "[x]"
_ANONYMOUS = frozenset({"BackboneElement", "Element"})
_INHERITED = frozenset({"id", "extension", "modifierExtension", "contained"})

Tables = dict[str, dict[str, str]]
"""See `load_shapes`."""


def shapes(source: Path, version: FHIRVersion) -> Tables:
    """Return the tables of a version; R6 has those of R5 with the root elements of `R6.json`."""
    if version is FHIRVersion.R6:
        return _with_root_elements(shapes(source, FHIRVersion.R5))
    tables: Tables = {}
    for path, types, repeats in _elements(source / version):
        parent, _, name = path.rpartition(".")
        if parent and name not in _INHERITED:
            children = tables.setdefault(parent, {})
            for child, type_ in _children(path, name, types):
                if type_[:1].isupper() or repeats or name.endswith(_CHOICE):
                    children[child] = type_ + "*" * repeats
            if name.endswith(_CHOICE):
                children[name] = ""
    return {path: children for path, children in tables.items() if children}


def _children(path: str, name: str, types: list[str]) -> Iterator[tuple[str, str]]:
    for type_ in types:
        suffix = choice_suffix(type_) if name.endswith(_CHOICE) else ""
        yield name.removesuffix(_CHOICE) + suffix, path if type_ in _ANONYMOUS else type_


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
                # A backbone element is written `Account_Balance`.
                own = f"{resource_type}.{name}" if "_" in type_ else type_
                if name not in _INHERITED and (own[:1].isupper() or element.max != "1"):
                    children = tables.setdefault(resource_type, {})
                    children[name] = own + "*" * (element.max != "1")
    return tables


def _elements(folder: Path) -> Iterator[tuple[str, list[str], bool]]:
    """Yield the path and the types of each element, and whether it repeats."""
    for path in sorted(folder.glob("StructureDefinition-*.json")):
        definition: dict[str, Any] = json.loads(path.read_bytes())
        if _defines_type(
            definition["kind"], definition.get("derivation", ""), definition["abstract"]
        ):
            for element in definition["snapshot"]["element"]:
                types = [type_["code"] for type_ in element.get("type", ())]
                reused = element.get("contentReference", "")
                yield element["path"], types or _reused(reused), element["max"] not in {"0", "1"}
    for name in ("profiles-types.xml", "profiles-resources.xml"):
        if (folder / name).exists():
            yield from _xml_elements(folder / name)


def _xml_elements(path: Path) -> Iterator[tuple[str, list[str], bool]]:
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
                    _value(element, "max") not in {"0", "1"},
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
        tables = shapes(source, version)
        lines = (
            f'"{path}":{json.dumps(tables[path], sort_keys=True, separators=(",", ":"))}'
            for path in sorted(tables)
        )
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        (target / f"{version}.shapes.json").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
