"""Write a synthetic population of any size; the same seed makes the same bytes."""

import base64
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from importlib.resources import files
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import msgspec

GROUP_ID = "every-tenth-patient"
"""The id of the Group in every population; one patient in ten is a member."""

PER_PRACTITIONER = 25
PER_ORGANIZATION = 100

# The types of which a patient has at least one, ordered so that references point to earlier ones.
ONCE = (
    "Patient",
    "Coverage",
    "Encounter",
    "Condition",
    "AllergyIntolerance",
    "Device",
    "CareTeam",
    "Goal",
    "CarePlan",
    "ServiceRequest",
    "Observation",
    "Claim",
    "Provenance",
)
# The mean numbers of resources per visit; the proportions are those of Synthea, rounded.
PER_VISIT = {
    "Observation": 4.5,
    "Condition": 0.5,
    "Procedure": 0.6,
    "MedicationRequest": 0.75,
    "Immunization": 0.6,
    "ServiceRequest": 0.4,
    "DiagnosticReport": 0.5,
    "DocumentReference": 0.5,
    "Claim": 0.8,
    "ExplanationOfBenefit": 0.7,
}
VISITS = 8
PER_PATIENT = round(len(ONCE) + VISITS * (1 + sum(PER_VISIT.values())))
"""The mean number of resources per patient."""

LINES_PER_WRITE = 2000
EPOCH = date(2015, 1, 1)
DAYS = 10 * 365

Fields = dict[str, str]
T = TypeVar("T")


class Phrasebook(msgspec.Struct, frozen=True, kw_only=True):
    """The texts of which a population is made, escaped for JSON strings."""

    organizations: list[str]
    people: list[Fields]
    places: list[Fields]
    sentences: list[str]
    choices: dict[str, list[Fields]]
    templates: dict[str, dict[str, Any]]

    def line(self, resource_type: str) -> str:
        """Return the format of a type's lines, with `%(name)s` for each field."""
        text = json.dumps(
            self.templates[resource_type], ensure_ascii=False, separators=(",", ":")
        ).replace("%", "%%")
        text = re.sub(r'"\$\{(\w+):raw\}"', r"%(\1)s", text)
        return re.sub(r"\$\{(\w+)\}", r"%(\1)s", text) + "\n"


def write_population(
    folder: Path, *, patients: int | None = None, resources: int | None = None, seed: int = 1
) -> Counter[str]:
    """
    Write one NDJSON file per type and return the number of lines of each.

    Set either `patients` or `resources`, which is then the exact number. A resource has about 1.25
    kB. All references point to resources of the same population, and one patient in ten is a
    member of the Group `GROUP_ID`.

    Raises:
        ValueError: `resources` is too small for a single patient.
    """
    population = Population(seed=seed)
    if resources is None:
        lines = population.lines(expected=patients or 1, patients=range(patients or 1))
    else:
        lines = population.lines(expected=resources // PER_PATIENT, patients=count())
        lines = islice(lines, max(0, resources - 1))
    folder.mkdir(parents=True, exist_ok=True)
    counts = _write(folder, lines)
    if not population.members:
        raise ValueError(f"{resources} resources are too few for a single patient")
    return counts + _write(folder, iter([("Group", population.group())]))


def _write(folder: Path, lines: Iterator[tuple[str, str]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    pending: dict[str, list[str]] = defaultdict(list)

    def flush(resource_type: str) -> None:
        mode = "ab" if counts[resource_type] else "wb"
        with (folder / f"{resource_type}.ndjson").open(mode) as file:
            file.write("".join(pending[resource_type]).encode())
        counts[resource_type] += len(pending.pop(resource_type))

    for resource_type, line in lines:
        lines_of_type = pending[resource_type]
        lines_of_type.append(line)
        if len(lines_of_type) >= LINES_PER_WRITE:
            flush(resource_type)
    for resource_type in list(pending):
        flush(resource_type)
    return counts


class Population:
    """Makes the lines of one population; later lines may refer to earlier ones."""

    def __init__(self, *, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 - it has to be repeatable, not secret
        source = files("helios_core.cli.demo").joinpath("population.json").read_bytes()
        self.phrases = msgspec.json.decode(source, type=Phrasebook)
        self.phrases.choices["Observation"] = list(self._measured())
        self.members: list[str] = []
        self._formats = {name: self.phrases.line(name) for name in self.phrases.templates}
        self._days = [(EPOCH + timedelta(days=day)).isoformat() for day in range(DAYS)]
        self._narratives = [self._sentences(2) for _ in range(200)]
        self._notes = [base64.b64encode(self._sentences(10).encode()).decode() for _ in range(50)]
        self._serial = 0
        # The field values of the next line; the name of a type maps to its latest id.
        self._fields: Fields = {}

    def lines(self, *, expected: int, patients: Iterable[int]) -> Iterator[tuple[str, str]]:
        """
        Yield type and line of all resources but the Group; references point to earlier lines.

        `expected` is the approximate number of patients, which decides how many organisations and
        practitioners they share.
        """
        organizations, practitioners, medications = [], [], []
        for _ in range(1 + expected // PER_ORGANIZATION):
            self._fields["organization_name"] = self._choose(self.phrases.organizations)
            self._fields |= self._choose(self.phrases.places)
            yield from map(self._line, ("Organization", "Location"))
            organizations.append(self._current("Organization", "Location", "organization_name"))
        for _ in range(1 + expected // PER_PRACTITIONER):
            self._fields |= self._choose(organizations) | self._person("practitioner_name")
            yield from map(self._line, ("Practitioner", "PractitionerRole"))
            practitioners.append(self._current("Practitioner", "practitioner_name"))
        for medication in self.phrases.choices["Medication"]:
            self._fields["medication_name"] = medication["display"]
            yield self._line("Medication", medication)
            medications.append(self._current("Medication", "medication_name"))
        for number in patients:
            self._fields |= self._choose(organizations) | self._choose(practitioners)
            self._fields |= self._choose(medications)
            yield from self._patient(number)

    def group(self) -> str:
        """Return the line of the Group of the patients made so far."""
        members = [{"entity": {"reference": f"Patient/{patient}"}} for patient in self.members]
        group = {
            "resourceType": "Group",
            "id": GROUP_ID,
            "type": "person",
            "actual": True,
            "name": "Every tenth patient",
            "quantity": len(members),
            "member": members,
        }
        return json.dumps(group, separators=(",", ":")) + "\n"

    def _patient(self, number: int) -> Iterator[tuple[str, str]]:
        self._fields |= self._choose(self.phrases.places) | self._person("patient_name")
        self._fields["birth_date"] = f"{1930 + number % 85}{self._choose(self._days)[4:]}"
        self._visit()
        for resource_type in ONCE:
            yield self._line(resource_type)
            if resource_type == "Patient" and number % 10 == 0:
                self.members.append(self._fields["id"])
        for _ in range(VISITS):
            self._visit()
            yield self._line("Encounter")
            for resource_type, mean in PER_VISIT.items():
                for _ in range(int(mean + self._random.random())):
                    yield self._line(resource_type)

    def _measured(self) -> Iterator[Fields]:
        for choice in self.phrases.choices["Observation"]:
            low, high = float(choice["low"]), float(choice["high"])
            for _ in range(40):
                yield choice | {"value": f"{low + (high - low) * self._random.random():.2f}"}

    def _visit(self) -> None:
        day, hour = self._choose(self._days), 8 + int(self._random.random() * 10)
        minutes = 10 + int(self._random.random() * 50)
        self._fields |= {
            "date": day,
            "start": f"{day}T{hour:02}:00:00+02:00",
            "end": f"{day}T{hour:02}:{minutes}:00+02:00",
            "minutes": str(minutes),
        }

    def _person(self, name_field: str) -> Fields:
        person = self._choose(self.phrases.people)
        return person | {name_field: f"{person['given']} {person['family']}"}

    def _line(self, resource_type: str, choice: Fields | None = None) -> tuple[str, str]:
        fields = self._fields
        fields["display"] = ""
        fields |= choice or self._choose(self.phrases.choices.get(resource_type) or [{}])
        self._serial += 1
        digits = f"{self._random.getrandbits(128):032x}"
        fields["id"] = fields[resource_type] = (
            f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"
        )
        fields["number"] = f"{self._serial:010}"
        fields["lot"] = digits[:7].upper()
        fields["amount"] = f"{self._random.random() * 500:.2f}"
        fields["narrative"] = self._choose(self._narratives)
        fields["sentence"] = self._choose(self.phrases.sentences)
        fields["note"] = self._notes[self._serial % len(self._notes)]
        return resource_type, self._formats[resource_type] % fields

    def _current(self, *names: str) -> Fields:
        return {name: self._fields[name] for name in names}

    def _choose(self, options: Sequence[T]) -> T:
        return options[int(self._random.random() * len(options))]

    def _sentences(self, count: int) -> str:
        return " ".join(self._choose(self.phrases.sentences) for _ in range(count))
