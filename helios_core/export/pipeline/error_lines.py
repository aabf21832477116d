"""The lines of an error file: one OperationOutcome each."""

from collections.abc import Mapping

from helios_core.export.disclosure import GROUP, PATIENT
from helios_core.fhir.outcomes import outcome_line
from helios_core.storage.data_provider import Damaged

NAMELESS_GAP = "A resource cannot be read, so a filter that looks at it may have left others out."
"""Replaces the reports of gaps, which name ids, if resources are exported under other ids."""

NAMELESS_MEMBERS = "Members of the exported Group that cannot be resolved were left out."
"""Replaces the reports of these members if resources are exported under other ids."""


def withheld_outcomes(withheld: Mapping[str, int]) -> list[bytes]:
    """
    Return the lines of an error file about resources that are also about other patients.

    There is none about Groups and Patients, because it would reveal something about others.
    """
    return [
        outcome_line(
            "information",
            "suppressed",
            f"{count} resources of type {resource_type} were left out, because they are also "
            "about patients outside of the list in `patient`.",
        )
        for resource_type, count in sorted(withheld.items())
        if count and resource_type not in (GROUP, PATIENT)
    ]


def damage_outcome(damaged: Damaged) -> bytes:
    """Return one line of an error file: which resource is missing from the output, and why."""
    return outcome_line(
        "error",
        "incomplete",
        f"{damaged.resource_type}/{damaged.id} could not be exported: {damaged.reason}",
    )
