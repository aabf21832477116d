# ruff: noqa: E501 - the page has a sentence a line
"""
Which resources can hold several patients, and what an export of some of them shows.

`make docs` writes the page from the compartment tables and `helios_core.export.disclosure`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from helios_core.export.disclosure import GROUP, PATIENT
from helios_core.fhir.compartments import KeyPath, compartment_paths, subject_paths
from helios_core.fhir.definitions import ElementDefinition, FHIRVersion, load_definitions

HEAD = """\
# Resources of several patients

Which types can be in the compartments of several patients at once, and what is exported of them.
[HTTP](http.md#compartments) says how a resource gets into a compartment.

`make docs` writes this page from the CompartmentDefinitions; types that are not on it are about one patient.

What the guide says (Bulk Data 2.0.0 and 3.0.0, `patient`): the server "SHALL NOT return resources in the patient compartments belonging to patients outside of this list".
Of a group export it says that it is about "all members of the specified Group".
What a resource in the compartments of both a patient of the list and another one is, the guide leaves open.
It is decided by the element that refers to the patient:

- **Subjects that can be several** (an Appointment's participants, the patients of an Account): the resource is as much the other patient's as the one's of the list.
  With `patient` it is exported only if all of its subjects are in the list.
  How many are left out is said in the `error` list, as information and without naming them.
- **A part in what is about somebody** (who performed an Observation, wrote a document, pays for a Coverage): the record is one patient's, and it is exported for everybody in whose compartment it is.
  Leaving it out would make the record of the patient in the list incomplete.
- **Group** shows who else is in it, and its name can say why.
  A group export shows the exported Group, which the client names itself, and those nested in it, also with `patient`; no other one.
  With `patient` at patient level no Group is exported. Nothing is reported: that there is one would tell something.
- **Patient**: with `patient` the Patients of the list, not those that link to them.

Elements that put a resource into no compartment do not count: the entries of a List or the sections of a Composition may refer to what is not exported.

The same holds for deletions, for Provenance that targets what is left out, for referenced context, for organized output and for the estimate of a dry run.
Without `patient`, at patient level and at system level, everything in the level is exported.

| type | refers to patients by | in a group export | with `patient` |
|---|---|---|---|
"""

EVERYTHING = "if one of its patients is a member"
ONE_LISTED = "if one of its patients is in the list"
ALL_LISTED = "if all of {} are in the list"


def page() -> str:
    """Return the page."""
    rows = (f"| {' | '.join(row)} |\n" for row in _rows())
    return HEAD + "".join(rows)


def shared_types() -> dict[str, dict[FHIRVersion, Sequence[KeyPath]]]:
    """Return the types that can be in several compartments, with the paths that do it."""
    types = defaultdict[str, dict[FHIRVersion, Sequence[KeyPath]]](dict)
    for version in FHIRVersion:
        definitions = load_definitions(version)
        for name, paths in compartment_paths(version).items():
            if name not in definitions.types:
                continue
            elements = definitions.elements(name)
            if len(paths) > 1 or any(_maximum(elements, path) != "1" for path in paths):
                types[name][version] = paths
    return dict(sorted(types.items()))


def _maximum(elements: Mapping[str, ElementDefinition], path: KeyPath) -> str:
    choice = path[0].removesuffix("Reference") + "[x]"
    return elements.get(path[0], elements.get(choice)).max


def _rows() -> Iterator[tuple[str, str, str, str]]:
    for name, versions in shared_types().items():
        by_decision = defaultdict[tuple[str, str, str], list[FHIRVersion]](list)
        for version, paths in versions.items():
            elements = ", ".join(f"`{_element(path)}`" for path in paths)
            by_decision[(elements, *_decision(name, version))].append(version)
        for (elements, of_group, of_list), among in by_decision.items():
            label = (
                name
                if len(by_decision) == 1 and len(among) == len(FHIRVersion)
                else (f"{name} ({', '.join(among)})")
            )
            yield label, elements, of_group, of_list


def _decision(name: str, version: FHIRVersion) -> tuple[str, str]:
    if name == GROUP:
        return "the exported Group and those nested in it", "as in a group export; else none"
    if name == PATIENT:
        return "if it or one it links to is a member", "if it is in the list"
    if paths := subject_paths(version, name):
        return EVERYTHING, ALL_LISTED.format(", ".join(f"`{_element(path)}`" for path in paths))
    return EVERYTHING, ONE_LISTED


def _element(path: KeyPath) -> str:
    return ".".join(path[:-1])
