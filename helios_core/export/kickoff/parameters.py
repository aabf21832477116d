"""
The table of all kick-off parameters that the server supports.

It decides which values a Parameters resource may have, which parameters are rejected as unknown
and what `/openapi.json` describes.
"""

from enum import StrEnum
from typing import Final, Literal

import msgspec

from helios_core.fhir.bulk_data import Guide
from helios_core.model.exports import AssociatedData

ORGANIZERS: Final = ("Group", "Organization", "Patient", "Practitioner")
"""The types by whose instances output can be organized."""

OUTPUT_FORMATS: Final = ("application/fhir+ndjson", "application/ndjson", "ndjson")
"""The names of the only output format (Bulk Data 2.0.0, Query Parameters)."""


class ValueKind(StrEnum):
    """The kind of value that a parameter takes."""

    TEXT = "text"
    CODE = "code"
    """A text, or a Coding with that code."""
    INSTANT = "instant"
    FLAG = "flag"
    NUMBER = "number"
    PATIENT = "patient"
    """A reference to a Patient."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The value[x] elements that an entry of a Parameters resource may use for it."""
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
    """A description for developers of clients."""
    example: str
    choices: tuple[str, ...] = ()
    """The only allowed values; empty if the values cannot be listed."""
    repeats: bool = False
    """Whether it may be sent more than once."""
    methods: frozenset[Literal["GET", "POST"]] = frozenset({"GET", "POST"})
    system: bool = True
    """Whether it is supported at system level."""
    draft: bool = False
    """Whether only some versions of the guide define it."""


PARAMETERS: Final = (
    ParameterDefinition(
        name="_type",
        value=ValueKind.TEXT,
        meaning="The resource types to export; without it, all types available at the level.",
        example="Patient",
        repeats=True,
    ),
    ParameterDefinition(
        name="_since",
        value=ValueKind.INSTANT,
        meaning="Only resources that changed strictly after this instant.",
        example="2020-01-02T03:04:05Z",
    ),
    ParameterDefinition(
        name="_until",
        value=ValueKind.INSTANT,
        meaning="Only resources that last changed strictly before this instant.",
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
        meaning="Searches, as Type?parameter=value; resources of their types are exported only if "
        "they match one.",
        example="Observation?status=final",
        repeats=True,
    ),
    ParameterDefinition(
        name="_elements",
        value=ValueKind.TEXT,
        meaning="The only root elements to include besides the mandatory ones, as element or "
        "Type.element.",
        example="Patient.birthDate",
        repeats=True,
    ),
    ParameterDefinition(
        name="includeAssociatedData",
        value=ValueKind.CODE,
        meaning="Which Provenance of the exported resources to add.",
        example=AssociatedData.LATEST.value,
        choices=tuple(choice.value for choice in AssociatedData),
        repeats=True,
    ),
    ParameterDefinition(
        name="organizeOutputBy",
        value=ValueKind.TEXT,
        meaning="The type whose instances head blocks of related resources in the files.",
        example="Patient",
        choices=ORGANIZERS,
    ),
    ParameterDefinition(
        name="allowPartialManifests",
        value=ValueKind.FLAG,
        meaning="Whether polls may list finished files, in linked pages, while the export runs.",
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
        meaning="The format of the files; all values are names of the same format.",
        example=OUTPUT_FORMATS[0],
        choices=OUTPUT_FORMATS,
    ),
    ParameterDefinition(
        name="_minimumFileSize",
        value=ValueKind.NUMBER,
        meaning="The minimum size of a file in bytes; a file may be smaller where its data ends.",
        example="1000",
        draft=True,
    ),
    ParameterDefinition(
        name="_maximumFileSize",
        value=ValueKind.NUMBER,
        meaning="The maximum size of a file in bytes, unless a single resource is larger.",
        example="1000000",
        draft=True,
    ),
)
"""In the order in which they are documented."""


def kickoff_parameters(guide: Guide) -> list[ParameterDefinition]:
    """Return the parameters that are supported with a version of the guide."""
    return [p for p in PARAMETERS if not p.draft or p.name in guide.parameters]
