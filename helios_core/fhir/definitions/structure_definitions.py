"""
HL7's StructureDefinitions, as the generators of tables read them.

The server does not import this module.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from helios_core.fhir.data_types import choice_suffix

CHOICE = "[x]"
"""The ending of the path of a choice element, which can have several types."""

Tables = dict[str, dict[str, str]]
"""The output of a generator: a type by parent (a type or path) and JSON name of the child."""

_XML = "{http://hl7.org/fhir}"
_ANONYMOUS = frozenset({"BackboneElement", "Element"})


class ElementOfType(NamedTuple):
    """One element of a StructureDefinition's snapshot."""

    path: str
    types: list[str]
    """The codes of its types; for a contentReference, the path that it points to."""
    repeats: bool

    def children(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield each JSON name of the element with its type; `name` is the end of its path."""
        for type_ in self.types:
            suffix = choice_suffix(type_) if name.endswith(CHOICE) else ""
            yield name.removesuffix(CHOICE) + suffix, self.path if type_ in _ANONYMOUS else type_


def read_elements(folder: Path) -> Iterator[ElementOfType]:
    """
    Yield the elements of all concrete types of one FHIR version.

    The folder has what HL7 publishes: `profiles-types.xml` and `profiles-resources.xml`, or the
    `StructureDefinition-*.json` of a package.
    """
    for path in sorted(folder.glob("StructureDefinition-*.json")):
        definition: dict[str, Any] = json.loads(path.read_bytes())
        if _defines_type(
            definition["kind"], definition.get("derivation", ""), definition["abstract"]
        ):
            for element in definition["snapshot"]["element"]:
                types = [type_["code"] for type_ in element.get("type", ())]
                reused = _reused(element.get("contentReference", ""))
                yield ElementOfType(element["path"], types or reused, _repeats(element["max"]))
    for name in ("profiles-types.xml", "profiles-resources.xml"):
        if (folder / name).exists():
            yield from _read_xml(folder / name)


def write_tables(tables: Mapping[str, Mapping[str, str]], path: Path) -> None:
    """Write tables as JSON with a line per type or path, sorted."""
    lines = (
        f'"{key}":{json.dumps(tables[key], sort_keys=True, separators=(",", ":"))}'
        for key in sorted(tables)
    )
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    path.write_text(text, encoding="utf-8", newline="\n")


def _read_xml(path: Path) -> Iterator[ElementOfType]:
    for _, node in ET.iterparse(path):  # noqa: S314 - HL7's own files
        if node.tag != f"{_XML}StructureDefinition":
            continue
        if _defines_type(
            _value(node, "kind"), _value(node, "derivation"), _value(node, "abstract") == "true"
        ):
            for element in node.iterfind(f"{_XML}snapshot/{_XML}element"):
                types = [_value(type_, "code") for type_ in element.iterfind(f"{_XML}type")]
                reused = _reused(_value(element, "contentReference"))
                yield ElementOfType(
                    _value(element, "path"), types or reused, _repeats(_value(element, "max"))
                )
        node.clear()


def _defines_type(kind: str, derivation: str, abstract: object) -> bool:
    return kind in {"complex-type", "resource"} and derivation != "constraint" and not abstract


def _value(node: ET.Element, name: str) -> str:
    child = node.find(_XML + name)
    return "" if child is None else child.get("value", "")


def _reused(content_reference: str) -> list[str]:
    return [content_reference.rpartition("#")[2]] if content_reference else []


def _repeats(maximum: str) -> bool:
    return maximum not in {"0", "1"}
