"""
What every parameter of a kick-off does, at every level and by either method.

`make docs` writes the page; tests send it all.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import groupby, product
from typing import Any

import msgspec

LEVELS = {"system": "/$export", "patient": "/Patient/$export", "group": "/Group/g1/$export"}
METHODS = ("GET", "POST")

HEAD = """\
# Parameters

What becomes of a kick-off with a parameter, at every level and by either method.
[HTTP](http.md#parameters) says what the parameters mean.

`make docs` writes this page.
A test sends every cell to a server, with every `handling`.

- **accepted**: 202, and nothing is reported.
- **refused**: 400 with an OperationOutcome that names the parameter; there is no export.
- **declined**: refused, except with `handling=lenient`: ignored then, and reported.
- **left out**: ignored and reported, except with `handling=strict`: refused then.
- **estimated**: 200 with an estimate; there is no export.
- **\N{EN DASH}**: cannot be sent.

*Reported* means that a file of the manifest's `error` list says so.
"""

DRAFT_HEAD = """
## The draft of version 4

With `HFS_BULK_DATA_IG=4-draft` a GET is 405, and these differ from the above:

"""


class Outcome(StrEnum):
    """What becomes of a kick-off."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    DECLINED = "declined"
    LEFT_OUT = "left out"
    ESTIMATED = "estimated"


class Case(msgspec.Struct, frozen=True):
    """One kind of value of a parameter."""

    parameter: str
    what: str
    values: Sequence[str]
    """As in a query; one entry for each time it is given."""
    outcome: Outcome
    but: Mapping[str, Outcome] = {}
    """Where something else becomes of it: by level, by method, or by both (`group POST`)."""
    beside: Sequence[tuple[str, str]] = ()
    """Other parameters that go with it."""
    kind: str = ""
    """How a Parameters resource carries it, where that is not as the guide says."""
    raw: object = None
    """The value to carry in that kind; such a case cannot be sent by GET."""

    def at(self, level: str, method: str) -> Outcome | None:
        """Return what becomes of it in one cell of the grid."""
        if self.raw is not None and method == "GET":
            return None
        keys = (f"{level} {method}", level, method)
        return next((self.but[key] for key in keys if key in self.but), self.outcome)

    def query(self) -> list[tuple[str, str]]:
        """Return it for a GET."""
        return [*((self.parameter, value) for value in self.values), *self.beside]

    def sent(self) -> str:
        """Return it for the page."""
        if self.raw is not None:
            return f"`{msgspec.json.encode(self.body()['parameter'][0]).decode()}`"
        return " ".join(f"`{name}={value}`" for name, value in self.query())

    def body(self) -> dict[str, Any]:
        """Return it for a POST."""
        if self.raw is not None:
            entries = [{"name": self.parameter, self.kind: self.raw}]
        else:
            entries = [_entry(name, value) for name, value in self.query()]
        return {"resourceType": "Parameters", "parameter": entries}


def _entry(name: str, value: str) -> dict[str, object]:
    if name == "patient":
        return {"name": name, "valueReference": {"reference": value}}
    return {"name": name, KINDS.get(name, "valueString"): value}


KINDS = {"_since": "valueInstant", "_until": "valueInstant", "includeAssociatedData": "valueCode"}

NEVER = "\N{EN DASH}"

UNKNOWN = "bogus"
"""The parameter that stands for all that no version of the guide has."""

ACCEPTED, REFUSED, DECLINED, LEFT_OUT, ESTIMATED = Outcome
PAST, LATER = "2020-01-02T03:04:05Z", "2021-01-02T03:04:05.123456+02:00"
OUTSIDE = {"patient": REFUSED, "group": REFUSED}
BESIDE = {"patient": LEFT_OUT, "group": LEFT_OUT}
MEMBERS = {"GET": REFUSED, "system POST": REFUSED}
ACTIVE, DONE = "Observation?status=final", "Observation?status=amended"


def _bounds(name: str, other: str) -> list[Case]:
    return [
        Case(name, "an instant", [PAST], ACCEPTED),
        Case(name, "an instant with an offset and microseconds", [LATER], ACCEPTED),
        Case(name, "an instant whose plus became a space", [LATER.replace("+", " ")], ACCEPTED),
        Case(name, "an instant to come", ["2200-01-01T00:00:00Z"], ACCEPTED),
        Case(name, "a date", ["2020-01-02"], REFUSED),
        Case(name, "a time without a zone", ["2020-01-02T03:04:05"], REFUSED),
        Case(name, "a day that does not exist", ["2020-02-30T00:00:00Z"], REFUSED),
        Case(name, "nothing", [""], REFUSED),
        Case(name, "given twice", [PAST, PAST], REFUSED),
        Case(name, f"the same as `{other}`", [PAST], REFUSED, beside=[(other, PAST)]),
        Case(name, "a valueBoolean", [], REFUSED, kind="valueBoolean", raw=True),
    ]


def _flag(name: str, yes: Outcome) -> list[Case]:
    return [
        Case(name, "true", ["true"], yes),
        Case(name, "false", ["false"], ACCEPTED),
        Case(name, "a valueBoolean", [], yes, kind="valueBoolean", raw=True),
        Case(name, "neither true nor false", ["maybe"], REFUSED),
        Case(name, "nothing", [""], REFUSED),
        Case(name, "given twice", ["true", "true"], REFUSED),
        Case(name, "a valueInteger", [], REFUSED, kind="valueInteger", raw=1),
    ]


CASES = [
    Case("_type", "types of compartments, joined", ["Patient,Observation"], ACCEPTED),
    Case("_type", "types, repeated and doubled", ["Patient", " Patient ,Observation"], ACCEPTED),
    Case("_type", "a type of no compartment", ["CodeSystem"], ACCEPTED, but=OUTSIDE),
    Case("_type", "such a type beside others", ["Patient,CodeSystem"], ACCEPTED, but=BESIDE),
    Case("_type", "a type of context", ["Practitioner"], ACCEPTED, but=OUTSIDE),
    Case("_type", "a type of context beside others", ["Patient,Practitioner"], ACCEPTED),
    Case("_type", "what is no type", ["NotAType"], REFUSED),
    Case("_type", "what is no type beside others", ["Patient,NotAType"], DECLINED),
    Case("_type", "a type in other case", ["patient"], REFUSED),
    Case("_type", "nothing", [""], REFUSED),
    Case("_type", "a valueInteger", [], REFUSED, kind="valueInteger", raw=3),
    *_bounds("_since", "_until"),
    *_bounds("_until", "_since"),
    Case("patient", "a member of the group", ["Patient/p1"], ACCEPTED, but=MEMBERS),
    Case("patient", "by its id, twice", ["p1", "p1"], ACCEPTED, but=MEMBERS),
    Case(
        "patient",
        "by an absolute URL of this server",
        ["http://fhir.example/Patient/p1"],
        ACCEPTED,
        but=MEMBERS,
    ),
    Case("patient", "no member", ["Patient/p2"], ACCEPTED, but={**MEMBERS, "group": REFUSED}),
    Case("patient", "who does not exist", ["Patient/none"], REFUSED),
    Case("patient", "of another type", ["Group/g1"], REFUSED),
    Case("patient", "of another server", ["http://elsewhere/Patient/p1"], REFUSED),
    Case("patient", "nobody", [""], REFUSED),
    Case("patient", "a valueInteger", [], REFUSED, kind="valueInteger", raw=1),
    Case("_typeFilter", "a search of a type", [ACTIVE], ACCEPTED),
    Case("_typeFilter", "searches, repeated", [ACTIVE, DONE], ACCEPTED),
    Case("_typeFilter", "searches, joined", [f"{ACTIVE},{DONE}"], ACCEPTED),
    Case("_typeFilter", "a chain", ["Observation?subject:Patient.gender=male"], ACCEPTED),
    Case("_typeFilter", "an unknown search parameter", ["Observation?nosuch=1"], DECLINED),
    Case("_typeFilter", "a value that means nothing", ["Observation?date=soon"], DECLINED),
    Case("_typeFilter", "a parameter that shapes results", ["Observation?_sort=date"], DECLINED),
    Case(
        "_typeFilter",
        "a type that is not exported",
        [ACTIVE],
        DECLINED,
        beside=[("_type", "Patient")],
    ),
    Case("_typeFilter", "what is no type", ["NotAType?_id=1"], DECLINED),
    Case("_typeFilter", "a search of no type", ["status=final"], REFUSED),
    Case("_typeFilter", "a search of a compartment", ["Patient/p1/Observation?_id=1"], REFUSED),
    Case("_typeFilter", "nothing", [""], REFUSED),
    Case("_typeFilter", "a valueInteger", [], REFUSED, kind="valueInteger", raw=1),
    Case("_elements", "elements at the root", ["id,birthDate"], ACCEPTED),
    Case("_elements", "elements of types", ["Patient.birthDate", "Observation.status"], ACCEPTED),
    Case("_elements", "a nested element beside others", ["id,name.family"], DECLINED),
    Case("_elements", "an unknown element beside others", ["id,Patient.nosuch"], DECLINED),
    Case("_elements", "what is no type beside others", ["id,NotAType.id"], DECLINED),
    Case("_elements", "nothing but such entries", ["Patient.name.family"], REFUSED),
    Case("_elements", "nothing", [""], REFUSED),
    Case("_elements", "a valueInteger", [], REFUSED, kind="valueInteger", raw=1),
    Case(
        "includeAssociatedData", "the latest Provenance", ["LatestProvenanceResources"], ACCEPTED
    ),
    Case(
        "includeAssociatedData",
        "both values, joined",
        ["LatestProvenanceResources,RelevantProvenanceResources"],
        ACCEPTED,
    ),
    Case("includeAssociatedData", "another value", ["Nope"], DECLINED),
    Case(
        "includeAssociatedData",
        "with `organizeOutputBy`",
        ["LatestProvenanceResources"],
        DECLINED,
        beside=[("organizeOutputBy", "Patient")],
    ),
    Case("includeAssociatedData", "a valueInteger", [], REFUSED, kind="valueInteger", raw=1),
    *(
        Case("organizeOutputBy", each, [each], ACCEPTED)
        for each in ("Patient", "Group", "Organization", "Practitioner")
    ),
    Case("organizeOutputBy", "another type", ["CodeSystem"], DECLINED),
    Case("organizeOutputBy", "nothing", [""], DECLINED),
    Case("organizeOutputBy", "given twice", ["Patient", "Patient"], REFUSED),
    Case("organizeOutputBy", "a valueInteger", [], REFUSED, kind="valueInteger", raw=1),
    *_flag("allowPartialManifests", ACCEPTED),
    *_flag("_dryRun", ESTIMATED),
    *(
        Case("_outputFormat", f"`{each}`", [each], ACCEPTED)
        for each in ("application/fhir+ndjson", "application/ndjson", "ndjson")
    ),
    Case("_outputFormat", "another format", ["text/csv"], REFUSED),
    Case("_outputFormat", "nothing", [""], REFUSED),
    Case("_outputFormat", "given twice", ["ndjson", "ndjson"], REFUSED),
    Case("_outputFormat", "a valueInteger", [], REFUSED, kind="valueInteger", raw=1),
    Case("_pretty", "anything", ["true"], ACCEPTED),
    Case("_maximumFileSize", "of the draft of version 4", ["1000000"], DECLINED),
    Case("_minimumFileSize", "of the draft of version 4", ["1000"], DECLINED),
    Case(UNKNOWN, "anything", ["1"], DECLINED),
]

"""What `HFS_BULK_DATA_IG=3` makes of parameters, as it is by default."""

SIZES = [("_minimumFileSize", "2000")]
DRAFT = [
    Case("_type", "types, repeated", ["Patient", "Observation"], ACCEPTED),
    Case("_type", "types, joined", ["Patient,Observation"], REFUSED),
    Case("_elements", "elements, joined", ["id,birthDate"], REFUSED),
    Case("_typeFilter", "searches, repeated", [ACTIVE, DONE], ACCEPTED),
    Case("_typeFilter", "searches, joined", [f"{ACTIVE},{DONE}"], REFUSED),
    Case("_typeFilter", "values, joined", [f"{ACTIVE},amended"], ACCEPTED),
    Case("_maximumFileSize", "a number from 1", ["1000000"], ACCEPTED),
    Case("_maximumFileSize", "a valueInteger", [], ACCEPTED, kind="valueInteger", raw=1000000),
    Case("_maximumFileSize", "nothing of size", ["0"], REFUSED),
    Case("_maximumFileSize", "what is no number", ["1 MB"], REFUSED),
    Case("_maximumFileSize", "given twice", ["1", "1"], REFUSED),
    Case("_maximumFileSize", "not above the minimum", ["2000"], REFUSED, beside=SIZES),
    Case("_minimumFileSize", "a number from 1", ["1000"], LEFT_OUT),
    Case("_minimumFileSize", "what is no number", ["-1"], REFUSED),
]
"""What `HFS_BULK_DATA_IG=4-draft` makes of parameters where it differs; it takes no GET."""


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for parameter, cases in groupby(CASES, key=lambda case: case.parameter):
        heading = "Any other parameter" if parameter == UNKNOWN else f"`{parameter}`"
        parts.append(f"\n## {heading}\n\n{_table(cases, METHODS)}")
    parts.append(f"{DRAFT_HEAD}{_table(DRAFT, ['POST'])}")
    return "".join(parts)


def _table(cases: Iterable[Case], methods: Sequence[str]) -> str:
    columns = list(product(LEVELS, methods))
    rows = [
        ["value", "sent", *(f"{level}, {method}" for level, method in columns)],
        ["---"] * (2 + len(columns)),
    ]
    rows += [
        [case.what, case.sent(), *(case.at(*column) or NEVER for column in columns)]
        for case in cases
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
