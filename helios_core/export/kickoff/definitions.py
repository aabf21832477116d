"""
Every parameter of a kick-off: the one table of what is served.

What a Parameters resource may carry, what is refused as unknown and what `/openapi.json` tells all
come from here.
"""

from enum import StrEnum
from typing import Final, Literal

import msgspec

from helios_core.fhir.bulk_data import Guide
from helios_core.model.exports import AssociatedData

ORGANIZERS = ("Group", "Organization", "Patient", "Practitioner")
"""The types whose instances can head blocks of output."""


OUTPUT_FORMATS: Final = ("application/fhir+ndjson", "application/ndjson", "ndjson")
"""The spellings of the one format there is (Bulk Data 2.0.0, Query Parameters)."""


class ValueKind(StrEnum):
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
    ValueKind.TEXT: _TEXTS,
    ValueKind.CODE: (*_TEXTS, "valueCoding"),
    ValueKind.INSTANT: ("valueInstant", "valueDateTime", "valueString"),
    ValueKind.FLAG: ("valueBoolean", "valueString"),
    ValueKind.NUMBER: (*_NUMBERS, "valueString"),
    ValueKind.PATIENT: ("valueReference", "valueString"),
}


class ParameterDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter of a kick-off."""

    name: str
    value: ValueKind
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


PARAMETERS: Final = (
    ParameterDefinition(
        name="_type",
        value=ValueKind.TEXT,
        meaning="Resource types to export; all that the level can show where it is left out.",
        example="Patient",
        repeats=True,
    ),
    ParameterDefinition(
        name="_since",
        value=ValueKind.INSTANT,
        meaning="Only what changed strictly after this instant.",
        example="2020-01-02T03:04:05Z",
    ),
    ParameterDefinition(
        name="_until",
        value=ValueKind.INSTANT,
        meaning="Only what last changed strictly before this instant.",
        example="2200-01-01T00:00:00Z",
    ),
    ParameterDefinition(
        name="patient",
        value=ValueKind.PATIENT,
        meaning="The only patients to export.",
        example="Patient/p1",
        repeats=True,
        methods=frozenset({"POST"}),
        system=False,
    ),
    ParameterDefinition(
        name="_typeFilter",
        value=ValueKind.TEXT,
        meaning="Searches, as Type?parameter=value; of their types only what matches one of them.",
        example="Observation?status=final",
        repeats=True,
    ),
    ParameterDefinition(
        name="_elements",
        value=ValueKind.TEXT,
        meaning="The only root elements to send beside the mandatory ones, as element or "
        "Type.element.",
        example="Patient.birthDate",
        repeats=True,
    ),
    ParameterDefinition(
        name="includeAssociatedData",
        value=ValueKind.CODE,
        meaning="Which Provenance goes with what is exported.",
        example=AssociatedData.LATEST.value,
        choices=tuple(each.value for each in AssociatedData),
        repeats=True,
    ),
    ParameterDefinition(
        name="organizeOutputBy",
        value=ValueKind.TEXT,
        meaning="The type whose instances head blocks of resources in the files.",
        example="Patient",
        choices=ORGANIZERS,
    ),
    ParameterDefinition(
        name="allowPartialManifests",
        value=ValueKind.FLAG,
        meaning="Whether polls may show finished files while the export runs, in linked pages.",
        example="true",
        choices=("true", "false"),
    ),
    ParameterDefinition(
        name="_dryRun",
        value=ValueKind.FLAG,
        meaning="Whether to estimate the export instead of starting it.",
        example="true",
        choices=("true", "false"),
    ),
    ParameterDefinition(
        name="_outputFormat",
        value=ValueKind.TEXT,
        meaning="The format of the files; these are spellings of the same one.",
        example=OUTPUT_FORMATS[0],
        choices=OUTPUT_FORMATS,
    ),
    ParameterDefinition(
        name="_minimumFileSize",
        value=ValueKind.NUMBER,
        meaning="Bytes a file should have at least; it may have less where data end.",
        example="1000",
        draft=True,
    ),
    ParameterDefinition(
        name="_maximumFileSize",
        value=ValueKind.NUMBER,
        meaning="Bytes a file may have at most, unless a single resource is larger.",
        example="1000000",
        draft=True,
    ),
)
"""In the order in which they are told."""


def served_parameters(guide: Guide) -> list[ParameterDefinition]:
    """Give the parameters that a version of the guide has here."""
    return [each for each in PARAMETERS if not each.draft or each.name in guide.parameters]
