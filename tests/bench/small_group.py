"""Many patients with little each, and a Group of a few who are spread among them."""

import json
from pathlib import Path

GROUP_ID = "few"
PATIENTS = 10_000
MEMBERS = 10
OBSERVATIONS = 4
"""For each patient."""
EXPORTED = MEMBERS * (1 + OBSERVATIONS) + 1
"""What an export of the Group brings; the Group is in its members' compartments."""


def write(target: Path) -> None:
    members = range(0, PATIENTS, PATIENTS // MEMBERS)
    group = {
        "resourceType": "Group",
        "id": GROUP_ID,
        "type": "person",
        "actual": True,
        "member": [{"entity": {"reference": f"Patient/p{number}"}} for number in members],
    }
    with target.open("w") as file:
        for number in range(PATIENTS):
            patient = {"resourceType": "Patient", "id": f"p{number}", "active": True}
            file.write(json.dumps(patient) + "\n")
            for place in range(OBSERVATIONS):
                file.write(json.dumps(_observation(number, place)) + "\n")
        file.write(json.dumps(group) + "\n")


def _observation(patient: int, place: int) -> dict[str, object]:
    return {
        "resourceType": "Observation",
        "id": f"o{patient}-{place}",
        "status": "final",
        "code": {"text": "Something that was seen"},
        "subject": {"reference": f"Patient/p{patient}"},
    }
