"""
Generate the definitions from those that HL7 publishes.

Run `python -m helios_core.fhir.definitions.generate FOLDER`.

FOLDER has one folder per version with `elements.json.gz` (root elements by type),
`search-parameters.json.gz` (a Bundle) and `compartmentdefinition-*.json`. R6 has not published
CompartmentDefinitions yet; those of R5 are used, without the types that R6 dropped. The server
does not import this module.
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
    """Return a version's file: JSON with a line for each type, parameter and compartment."""
    resources: JSON = _read(source / version / "elements.json.gz")["resources"]
    bundle = _read(source / version / "search-parameters.json.gz")
    published = [entry["resource"] for entry in bundle["entry"]]
    label: str = published[0]["version"]
    compartments = _compartments(
        source / _COMPARTMENT_SOURCE.get(version, version), set(resources)
    )
    sections = {
        "compartments": _object_lines(compartments),
        "elements": _object_lines(resources),
        "label": _compact(label),
        "release": _compact(".".join(label.split(".")[:2])),
        "search_parameters": _array_lines([_parameter(resource) for resource in published]),
    }
    return "{\n" + ",\n".join(f'"{name}":{text}' for name, text in sections.items()) + "\n}\n"


def _read(path: Path) -> JSON:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    content: JSON = json.loads(text)
    return content


def _parameter(resource: JSON) -> JSON:
    parameter = {name: resource[name] for name in ("code", "type", "base", "url")}
    if "expression" in resource:
        parameter["expression"] = resource["expression"]
    if "target" in resource:
        parameter["target"] = sorted(resource["target"])
    if "component" in resource:
        parameter["component"] = [
            {"definition": component["definition"], "expression": component["expression"]}
            for component in resource["component"]
        ]
    return parameter


def _compartments(source: Path, types: set[str]) -> JSON:
    definitions = [_read(source / f"compartmentdefinition-{name}.json") for name in _COMPARTMENTS]
    return {
        definition["code"]: {
            member["code"]: codes
            for member in definition["resource"]
            if member["code"] in types
            # "{def}" puts a resource into its own compartment; no parameter is needed for that.
            and (codes := [code for code in member.get("param", ()) if code != _ITSELF])
        }
        for definition in definitions
    }


def _compact(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _object_lines(members: JSON) -> str:
    lines = (f'"{name}":{_compact(members[name])}' for name in sorted(members))
    return "{\n" + ",\n".join(lines) + "\n}"


def _array_lines(rows: list[JSON]) -> str:
    ordered = sorted(rows, key=lambda row: (row["code"], row["url"]))
    return "[\n" + ",\n".join(map(_compact, ordered)) + "\n]"


def main(source: Path, target: Path = Path(__file__).parent) -> None:
    """Write the files of all versions to a folder, by default that of this module."""
    for version in FHIRVersion:
        text = generate(source, version)
        (target / f"{version}.json").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
