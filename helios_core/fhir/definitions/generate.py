"""
Make the definitions from the published ones.

Run `python -m helios_core.fhir.definitions.generate FOLDER`.

FOLDER holds one folder per version with `elements.json.gz` (root elements per type),
`search-parameters.json.gz` (a Bundle) and `compartmentdefinition-*.json`. Not imported at run
time. R6 has published no CompartmentDefinitions yet: R5's are taken, without the types R6 dropped.
"""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

from helios_core.fhir.definitions import FHIRVersion

_COMPARTMENTS = ("device", "encounter", "patient", "practitioner", "relatedperson")
_COMPARTMENT_SOURCE = {FHIRVersion.R6: FHIRVersion.R5}
_ITSELF = "{def}"

JSON = dict[str, Any]


def generate(source: Path, version: FHIRVersion) -> str:
    """Give the text of a version's table: JSON with a line per type, parameter and compartment."""
    resources: JSON = _read(source / version / "elements.json.gz")["resources"]
    bundle = _read(source / version / "search-parameters.json.gz")
    published = [entry["resource"] for entry in bundle["entry"]]
    label: str = published[0]["version"]
    compartments = _compartments(
        source / _COMPARTMENT_SOURCE.get(version, version), set(resources)
    )
    sections = {
        "compartments": _lines(compartments),
        "elements": _lines(resources),
        "label": _compact(label),
        "release": _compact(".".join(label.split(".")[:2])),
        "search_parameters": _rows([_parameter(resource) for resource in published]),
    }
    return "{\n" + ",\n".join(f'"{name}":{text}' for name, text in sections.items()) + "\n}\n"


def _read(path: Path) -> JSON:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    content: JSON = json.loads(text)
    return content


def _parameter(resource: JSON) -> JSON:
    kept = {name: resource[name] for name in ("code", "type", "base", "url")}
    if "expression" in resource:
        kept["expression"] = resource["expression"]
    if "target" in resource:
        kept["target"] = sorted(resource["target"])
    if "component" in resource:
        kept["component"] = [
            {"definition": part["definition"], "expression": part["expression"]}
            for part in resource["component"]
        ]
    return kept


def _compartments(source: Path, types: set[str]) -> JSON:
    definitions = [_read(source / f"compartmentdefinition-{name}.json") for name in _COMPARTMENTS]
    return {
        definition["code"]: {
            member["code"]: codes
            for member in definition["resource"]
            if member["code"] in types
            # A resource is in its own compartment by definition; that takes no parameter.
            and (codes := [code for code in member.get("param", ()) if code != _ITSELF])
        }
        for definition in definitions
    }


def _compact(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _lines(members: JSON) -> str:
    lines = (f'"{name}":{_compact(members[name])}' for name in sorted(members))
    return "{\n" + ",\n".join(lines) + "\n}"


def _rows(rows: list[JSON]) -> str:
    ordered = sorted(rows, key=lambda row: (row["code"], row["url"]))
    return "[\n" + ",\n".join(map(_compact, ordered)) + "\n]"


def main(source: Path, target: Path = Path(__file__).parent / "tables") -> None:
    """Write the tables of all versions, beside this module unless told otherwise."""
    for version in FHIRVersion:
        text = generate(source, version)
        (target / f"{version}.json").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
