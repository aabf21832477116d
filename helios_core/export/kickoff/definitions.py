"""
Every parameter of a kick-off: the one table of what is served.

What a Parameters resource may carry, what is refused as unknown and what `/openapi.json` tells all
come from here.
"""

from enum import StrEnum
from typing import Final, Literal

import msgspec

from helios_core.fhir.bulk_data import Guide
from helios_core.model.exports import Associated

ORGANIZERS = ("Group", "Organization", "Patient", "Practitioner")
"""The types whose instances can head blocks of output."""


OUTPUT_FORMATS: Final = ("application/fhir+ndjson", "application/ndjson", "ndjson")
"""The spellings of the one format there is (Bulk Data 2.0.0, Query Parameters)."""


class Value(StrEnum):
    """What the text of a value is."""

    TEXT = "text"
    CODE = "code"
    """A text, or a Coding of it."""
    INSTANT = "instant"
    FLAG = "flag"
    NUMBER = "number"
    PATIENT = "patient"
    """A reference to a Patient."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of value an entry of a Parameters resource may carry it in."""
        return _KINDS[self]


_TEXTS: Final = ("valueString", "valueCode", "valueUri", "valueUrl", "valueCanonical", "valueId")
_NUMBERS: Final = ("valueInteger", "valuePositiveInt", "valueUnsignedInt", "valueInteger64")
_KINDS: Final = {
    Value.TEXT: _TEXTS,
    Value.CODE: (*_TEXTS, "valueCoding"),
    Value.INSTANT: ("valueInstant", "valueDateTime", "valueString"),
    Value.FLAG: ("valueBoolean", "valueString"),
    Value.NUMBER: (*_NUMBERS, "valueString"),
    Value.PATIENT: ("valueReference", "valueString"),
}


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter of a kick-off."""

    name: str
    value: Value
    meaning: str
    """In words for somebody who writes a client."""
    example: str
    choices: tuple[str, ...] = ()
    """The only values there are; empty where there are others."""
    repeats: bool = False
    """Whether it may be given more than once."""
    methods: frozenset[Literal["GET", "POST"]] = frozenset({"GET", "POST"})
    system: bool = True
    """Whether it has a meaning at system level."""
    draft: bool = False
    """Whether only some version of the guide has it."""


CATALOGUE: Final = (
    Parameter(
        name="_type",
        value=Value.TEXT,
        meaning="Resource types to export; all that the level can show where it is left out.",
        example="Patient",
        repeats=True,
    ),
    Parameter(
        name="_since",
        value=Value.INSTANT,
        meaning="Only what changed strictly after this instant.",
        example="2020-01-02T03:04:05Z",
    ),
    Parameter(
        name="_until",
        value=Value.INSTANT,
        meaning="Only what last changed strictly before this instant.",
        example="2200-01-01T00:00:00Z",
    ),
    Parameter(
        name="patient",
        value=Value.PATIENT,
        meaning="The only patients to export.",
        example="Patient/p1",
        repeats=True,
        methods=frozenset({"POST"}),
        system=False,
    ),
    Parameter(
        name="_typeFilter",
        value=Value.TEXT,
        meaning="Searches, as Type?parameter=value; of their types only what matches one of them.",
        example="Observation?status=final",
        repeats=True,
    ),
    Parameter(
        name="_elements",
        value=Value.TEXT,
        meaning="The only root elements to send beside the mandatory ones, as element or "
        "Type.element.",
        example="Patient.birthDate",
        repeats=True,
    ),
    Parameter(
        name="includeAssociatedData",
        value=Value.CODE,
        meaning="Which Provenance goes with what is exported.",
        example=Associated.LATEST.value,
        choices=tuple(each.value for each in Associated),
        repeats=True,
    ),
    Parameter(
        name="organizeOutputBy",
        value=Value.TEXT,
        meaning="The type whose instances head blocks of resources in the files.",
        example="Patient",
        choices=ORGANIZERS,
    ),
    Parameter(
        name="allowPartialManifests",
        value=Value.FLAG,
        meaning="Whether polls may show finished files while the export runs, in linked pages.",
        example="true",
        choices=("true", "false"),
    ),
    Parameter(
        name="_dryRun",
        value=Value.FLAG,
        meaning="Whether to estimate the export instead of starting it.",
        example="true",
        choices=("true", "false"),
    ),
    Parameter(
        name="_outputFormat",
        value=Value.TEXT,
        meaning="The format of the files; these are spellings of the same one.",
        example=OUTPUT_FORMATS[0],
        choices=OUTPUT_FORMATS,
    ),
    Parameter(
        name="_minimumFileSize",
        value=Value.NUMBER,
        meaning="Bytes a file should have at least; it may have less where data end.",
        example="1000",
        draft=True,
    ),
    Parameter(
        name="_maximumFileSize",
        value=Value.NUMBER,
        meaning="Bytes a file may have at most, unless a single resource is larger.",
        example="1000000",
        draft=True,
    ),
)
"""In the order in which they are told."""


def served(guide: Guide) -> list[Parameter]:
    """Give the parameters that a version of the guide has here."""
    return [each for each in CATALOGUE if not each.draft or each.name in guide.parameters]
