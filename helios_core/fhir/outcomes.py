"""OperationOutcome, the resource that reports errors."""

from typing import Literal

import msgspec

Severity = Literal["fatal", "error", "warning", "information"]


def outcome_line(severity: Severity, code: str, diagnostics: str) -> bytes:
    """
    Return an OperationOutcome with one issue as compact JSON, without a newline.

    `code` is from http://hl7.org/fhir/issue-type; every class of `helios_core.errors` has one.
    """
    issue = {"severity": severity, "code": code, "diagnostics": diagnostics}
    return msgspec.json.encode({"resourceType": "OperationOutcome", "issue": [issue]})
