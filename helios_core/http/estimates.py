"""The answer to a dry run, as a Parameters resource."""

from typing import Any

import msgspec

from helios_core.kickoff.dry_runs import Estimate

UNITS = "http://unitsofmeasure.org"


def estimate_answer(estimate: Estimate) -> bytes:
    """Give an estimate as FHIR; of a call that would be refused only the reasons."""
    accepted = not estimate.refused
    parameters = [
        _entry("accepted", valueBoolean=accepted),
        *(_entry("refused", valueString=reason) for reason in estimate.refused),
        *(_entry("ignored", valueString=reason) for reason in estimate.ignored),
        *(_entry("remark", valueString=remark) for remark in estimate.remarks),
        *(_amounts(estimate) if accepted else ()),
    ]
    return msgspec.json.encode({"resourceType": "Parameters", "parameter": parameters})


def _amounts(estimate: Estimate) -> list[dict[str, Any]]:
    amounts = estimate.types.values()
    return [
        _entry("resources", valueDecimal=sum(amount.resources for amount in amounts)),
        _entry("bytes", valueDecimal=sum(amount.bytes for amount in amounts)),
        _entry("files", valueDecimal=estimate.files),
        *_duration(estimate),
        *(
            _entry(
                "type",
                part=[
                    _entry("type", valueCode=name),
                    _entry("resources", valueDecimal=amount.resources),
                    _entry("bytes", valueDecimal=amount.bytes),
                ],
            )
            for name, amount in sorted(estimate.types.items())
        ),
    ]


def _duration(estimate: Estimate) -> list[dict[str, Any]]:
    if estimate.duration is None:
        return []
    seconds = round(estimate.duration.total_seconds(), 3)
    value = {"value": seconds, "unit": "s", "system": UNITS, "code": "s"}
    return [_entry("expectedDuration", valueDuration=value)]


def _entry(name: str, **value: Any) -> dict[str, Any]:  # noqa: ANN401  a FHIR value of any type
    return {"name": name, **value}
