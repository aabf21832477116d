"""The FHIR versions served, and their tables."""

from enum import StrEnum


class FHIRVersion(StrEnum):
    """A FHIR release, named as HL7 names it."""

    R4 = "R4"
    R4B = "R4B"
    R5 = "R5"
    R6 = "R6"
